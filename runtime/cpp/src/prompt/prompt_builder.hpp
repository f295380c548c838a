// The prompt, built turn by turn, with score positions recorded while building.
//
// Source: the Python package's `prompt/builder.py`, which names the original. Control tokens are emitted by id and each
// stretch of text between two of them is tokenised alone, so user text cannot forge one.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bundle/manifest.hpp"
#include "text/tokenizer.hpp"

namespace vprm::internal {

using Ids = std::vector<TokenId>;

// Token ids of a whole prompt and the positions whose logits give its steps' scores, one per step, in order.
struct TokenisedPrompt {
    Ids ids;
    std::vector<std::int64_t> score_positions;
};

// Text that is split into steps, or the steps.
using Response = std::variant<std::string, std::vector<std::string>>;

// Steps of a response; with max_steps m > 0 and n > m steps, groups of ceil(n/m) steps are joined again.
std::vector<std::string> split_steps(const Response &response, const ScoreRule &rule, int max_steps);

class PromptBuilder {
  public:
    // The tokenizer and the manifest must outlive the builder.
    PromptBuilder(const Tokenizer &tokenizer, const Manifest &manifest);

    // Ids up to where the first step's text starts. `tiles` has the number of tiles of each image.
    Ids prefix(std::string_view question, const std::vector<int> &tiles) const;

    // The whole prompt of one candidate. Throws an input error on a blank question, or image placeholders that are not
    // as many as the images.
    TokenisedPrompt build(std::string_view question, const std::vector<int> &tiles,
                          const std::vector<std::string> &steps) const;

  private:
    using Piece = std::variant<std::string, int>;  // text, or the tiles of an image

    std::vector<Piece> first_turn(std::string_view question, std::string_view step, const std::vector<int> &tiles) const;
    void open_turn(Ids &ids, const char *role, const std::vector<Piece> &pieces) const;
    void close_turn(Ids &ids) const;
    TokenisedPrompt build_marked(std::string_view question, const std::vector<int> &tiles,
                                 const std::vector<std::string> &steps) const;

    const Tokenizer &tokenizer_;
    const ControlTokens &control_;
    const ScoreRule &rule_;
    std::int64_t tokens_per_tile_;
    Ids newline_, reply_, assistant_header_, system_turn_, marked_start_;
};

}  // namespace vprm::internal
