// Plain text to token ids: executes a bundle's `tokenizer.json`. Control tokens never come out of here.
#pragma once

#include <array>
#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.hpp"
#include "text/added_tokens.hpp"
#include "text/bpe.hpp"
#include "text/pattern.hpp"

namespace vprm::internal {

class Tokenizer {
  public:
    // Reads the text of a `tokenizer.json`. Throws an unsupported error naming what it cannot execute, a bundle error
    // if the file is damaged. `control` are the ids that text must never become.
    Tokenizer(std::string_view json_text, std::set<TokenId> control);

    // Token ids of `text`, without BOS. Throws an input error if it is not valid UTF-8 or would become control tokens.
    // Threads may share a tokenizer.
    std::vector<TokenId> encode(std::string_view text) const;

  private:
    struct Normalizer {
        enum class Kind { kReplace, kPrepend, kNfc } kind;
        std::string pattern, content;
    };

    friend class TokenizerReader;

    std::string normalised(std::string_view text) const;
    void encode_piece(std::string_view text, std::vector<std::uint32_t> &ids) const;
    void encode_byte_level(std::string_view piece, std::vector<std::uint32_t> &ids) const;

    std::vector<Normalizer> normalizers_;
    std::vector<Pattern> patterns_;  // one after the other
    bool is_byte_level_ = false;
    std::array<std::string, 256> byte_characters_;
    Bpe bpe_;
    AddedTokens raw_tokens_, normalised_tokens_;
    std::set<TokenId> control_;
};

}  // namespace vprm::internal
