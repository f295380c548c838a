// Lay candidates' new tokens out in blocks: several short ones side by side, or one long one over several blocks.
//
// Pure layout: no engine, no text. Every candidate shares its first `shared_tokens` ids with its cached past; its other
// ids are new. In a packed block each candidate sees the part of the past that it shares, and itself.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/block.hpp"
#include "prompt/prompt_builder.hpp"

namespace vprm::internal {

using Rows = std::vector<std::size_t>;  // of the cache

struct Candidate {
    std::size_t index;
    TokenisedPrompt prompt;
    std::size_t shared_tokens;

    // Number of ids that have to be run, up to the last score position: what follows it changes no score.
    std::size_t new_tokens() const { return static_cast<std::size_t>(prompt.score_positions.back()) + 1 - shared_tokens; }
};

std::size_t common_prefix_tokens(const Ids &first, const Ids &second);

// Candidates, shortest first, in groups of at most `max_block_tokens` new tokens; a longer one stands alone.
std::vector<std::vector<const Candidate *>> grouped(const std::vector<Candidate> &candidates,
                                                    std::size_t max_block_tokens);

// One block for a whole group after `past_tokens` cached rows, of which `past_rows` are the group's common past in order.
Block packed_block(const std::vector<const Candidate *> &group, std::size_t past_tokens, const Rows &past_rows);

// Consecutive ids [start, stop) after `past_tokens` cached rows; each token sees the rows `past_rows`, those before it in
// the block, and itself. `score_positions` are rows of this block.
Block causal_block(const Ids &ids, std::size_t start, std::size_t stop, std::size_t past_tokens, const Rows &past_rows,
                   EmbedRows image_embeds, std::vector<std::int64_t> score_positions);

}  // namespace vprm::internal
