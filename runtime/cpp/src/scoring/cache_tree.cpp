#include "scoring/cache_tree.hpp"

#include <algorithm>

#include "base/error.hpp"

namespace vprm::internal {

namespace {

// Unreferenced rows between others are taken out once they exceed this fraction of the referenced ones.
constexpr double kMostUnusedRows = 0.25;
// The cache of a prefix that is only kept is trimmed once its spare capacity exceeds this fraction of its rows.
constexpr double kMostSpareRows = 0.25;

}  // namespace

std::size_t Branch::tokens() const {
    std::size_t sum = 0;
    for (const auto &part : parts_) sum += part.second;
    return sum;
}

Rows Branch::rows() const {
    Rows rows;
    rows.reserve(tokens());
    for (const auto &[span, tokens] : parts_)
        for (std::size_t i = 0; i < tokens; i++) rows.push_back(span->start + i);
    return rows;
}

Branch CacheTree::grown(const Branch &past, std::size_t shared_tokens, std::size_t start) {
    Branch branch;
    for (const auto &[span, tokens] : past.parts_) {
        if (shared_tokens == 0) break;
        const std::size_t taken = std::min(tokens, shared_tokens);
        branch.parts_.emplace_back(span, taken);
        shared_tokens -= taken;
    }
    const auto span = std::make_shared<Branch::Span>(Branch::Span{start, cache_.length_tokens() - start});
    spans_.push_back(span);
    branch.parts_.emplace_back(span, span->tokens);
    return branch;
}

void CacheTree::reclaim() {
    const auto is_unused = [](const std::shared_ptr<Branch::Span> &span) { return span.use_count() == 1; };
    spans_.erase(std::remove_if(spans_.begin(), spans_.end(), is_unused), spans_.end());
    cache_.truncate(spans_.empty() ? 0 : spans_.back()->start + spans_.back()->tokens);
    std::size_t used = 0;
    for (const auto &span : spans_) used += span->tokens;
    if (static_cast<double>(cache_.length_tokens() - used) > kMostUnusedRows * static_cast<double>(used)) compact();
    if (cache_.capacity_tokens() > 2 * (cache_.length_tokens() + working_tokens_)) cache_.trim();
}

void CacheTree::compact() {
    Rows kept;
    for (const auto &span : spans_) {
        const std::size_t start = kept.size();
        for (std::size_t i = 0; i < span->tokens; i++) kept.push_back(span->start + i);
        span->start = start;
    }
    cache_.keep(kept);
}

void CacheTree::rest() {
    reclaim();
    const auto rows = static_cast<double>(cache_.length_tokens());
    if (static_cast<double>(cache_.capacity_tokens()) > (1 + kMostSpareRows) * rows) cache_.trim();
}

InUse::InUse(CacheTree &tree) : tree_(tree) {
    if (tree_.is_in_use_.exchange(true, std::memory_order_acquire))
        throw Error(ErrorCode::kBusy,
                    "another thread is using this session or one that shares its cache: one thread at a time, or open a "
                    "session for each");
}

InUse::~InUse() { tree_.is_in_use_.store(false, std::memory_order_release); }

}  // namespace vprm::internal
