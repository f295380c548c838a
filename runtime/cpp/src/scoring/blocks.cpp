#include "scoring/blocks.hpp"

#include <algorithm>
#include <numeric>

namespace vprm::internal {

std::size_t common_prefix_tokens(const Ids &first, const Ids &second) {
    const std::size_t end = std::min(first.size(), second.size());
    const auto until = first.begin() + static_cast<std::ptrdiff_t>(end);
    return static_cast<std::size_t>(std::mismatch(first.begin(), until, second.begin()).first - first.begin());
}

std::vector<std::vector<const Candidate *>> grouped(const std::vector<Candidate> &candidates,
                                                    std::size_t max_block_tokens) {
    std::vector<const Candidate *> sorted;
    for (const Candidate &candidate : candidates) sorted.push_back(&candidate);
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const Candidate *a, const Candidate *b) { return a->new_tokens() < b->new_tokens(); });
    std::vector<std::vector<const Candidate *>> groups;
    std::size_t tokens = 0;
    for (const Candidate *candidate : sorted) {
        if (groups.empty() || tokens + candidate->new_tokens() > max_block_tokens) {
            groups.emplace_back();
            tokens = 0;
        }
        groups.back().push_back(candidate);
        tokens += candidate->new_tokens();
    }
    return groups;
}

Block packed_block(const std::vector<const Candidate *> &group, std::size_t past_tokens, const Rows &past_rows) {
    Block block;
    std::size_t total = 0;
    for (const Candidate *candidate : group) total += candidate->new_tokens();
    const std::size_t columns = past_tokens + total;
    block.attention_mask.assign(total * columns, 0);
    std::size_t start = 0;
    for (const Candidate *candidate : group) {
        const std::size_t shared = candidate->shared_tokens, length = candidate->new_tokens();
        for (std::size_t i = 0; i < length; i++) {
            block.input_ids.push_back(candidate->prompt.ids[shared + i]);
            block.position_ids.push_back(static_cast<std::int64_t>(shared + i));
            std::uint8_t *line = block.attention_mask.data() + (start + i) * columns;
            for (std::size_t k = 0; k < shared; k++) line[past_rows[k]] = 1;
            std::fill_n(line + past_tokens + start, i + 1, std::uint8_t{1});
        }
        for (const std::int64_t position : candidate->prompt.score_positions)
            block.score_positions.push_back(position - static_cast<std::int64_t>(shared) + static_cast<std::int64_t>(start));
        start += length;
    }
    return block;
}

Block causal_block(const Ids &ids, std::size_t start, std::size_t stop, std::size_t past_tokens, const Rows &past_rows,
                   EmbedRows image_embeds, std::vector<std::int64_t> score_positions) {
    Block block;
    const std::size_t tokens = stop - start, columns = past_tokens + tokens;
    block.input_ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(start), ids.begin() + static_cast<std::ptrdiff_t>(stop));
    block.position_ids.resize(tokens);
    std::iota(block.position_ids.begin(), block.position_ids.end(), static_cast<std::int64_t>(past_rows.size()));
    block.attention_mask.assign(tokens * columns, 0);
    for (std::size_t i = 0; i < tokens; i++) {
        std::uint8_t *line = block.attention_mask.data() + i * columns;
        for (const std::size_t row : past_rows) line[row] = 1;
        std::fill_n(line + past_tokens, i + 1, std::uint8_t{1});
    }
    block.image_embeds = image_embeds;
    block.score_positions = std::move(score_positions);
    return block;
}

}  // namespace vprm::internal
