// Cached rows of one prefix and of everything that continues it.
//
// A branch is a value: which spans of rows it sees. Where a span's rows are in the cache is the tree's business alone, so
// rows can move without any branch knowing. A span lives as long as a branch has it; branches may be dropped by any
// thread at any time, everything else belongs to whoever holds the tree in use.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "engine/kv_cache.hpp"
#include "scoring/blocks.hpp"

namespace vprm::internal {

class CacheTree;

class Branch {
  public:
    std::size_t tokens() const;
    // Their rows in the cache as it is now, in order. Only for whoever holds the tree in use.
    Rows rows() const;

  private:
    friend class CacheTree;
    struct Span {
        std::size_t start, tokens;
    };

    std::vector<std::pair<std::shared_ptr<Span>, std::size_t>> parts_;
};

class CacheTree {
  public:
    // `working_tokens` is the capacity beyond its rows that work on the tree wants: a block.
    CacheTree(KvCache cache, std::size_t working_tokens) : cache_(std::move(cache)), working_tokens_(working_tokens) {}

    KvCache &cache() { return cache_; }
    const KvCache &cache() const { return cache_; }

    // A branch of the first `shared_tokens` of `past` and all rows from `start` to the cache's end.
    Branch grown(const Branch &past, std::size_t shared_tokens, std::size_t start);

    // Forgets rows that no branch sees: at the end always, between others once they are many.
    void reclaim();
    // Holds little more memory than the rows need, until somebody works on the tree again.
    void rest();

  private:
    friend class InUse;

    void compact();

    KvCache cache_;
    std::size_t working_tokens_;
    std::vector<std::shared_ptr<Branch::Span>> spans_;  // in order of their rows
    std::atomic<bool> is_in_use_{false};
};

// Holds a tree in use while it lives. A second one at the same time throws a busy error: sessions of one tree belong to
// one thread at a time.
class InUse {
  public:
    explicit InUse(CacheTree &tree);
    ~InUse();
    InUse(const InUse &) = delete;
    InUse &operator=(const InUse &) = delete;

  private:
    CacheTree &tree_;
};

}  // namespace vprm::internal
