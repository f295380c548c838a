// S new tokens after P cached ones, in the terms of the LLM graph.
#pragma once

#include <cstdint>
#include <vector>

namespace vprm::internal {

// Image embeddings in the LLM graph's floating type: rows [count, hidden] of somebody else's memory.
struct EmbedRows {
    const void *data = nullptr;
    std::size_t count = 0;
};

struct Block {
    std::vector<std::int64_t> input_ids;        // [S]
    EmbedRows image_embeds;                     // [R, hidden]
    std::vector<std::int64_t> position_ids;     // [S]
    std::vector<std::uint8_t> attention_mask;   // [S, P+S], 1 where row may look at column
    std::vector<std::int64_t> score_positions;  // [K], K may be 0
};

}  // namespace vprm::internal
