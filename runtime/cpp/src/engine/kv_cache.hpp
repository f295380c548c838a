// Cached keys and values: rows [layers, 2, capacity, kv_width] in one piece of memory, oldest first.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "bundle/manifest.hpp"

namespace vprm::internal {

// Real bytes of all caches of one model, whoever holds them. Any thread may read it.
using CacheMeter = std::atomic<std::size_t>;

class KvCache {
  public:
    KvCache(const Manifest &manifest, std::size_t capacity_tokens, std::shared_ptr<CacheMeter> meter);

    std::size_t length_tokens() const { return length_; }
    std::size_t capacity_tokens() const { return capacity_; }
    std::size_t size_bytes() const { return parts_ * capacity_ * row_bytes_; }

    // Row `token` of a layer's keys (part 0) or values (part 1).
    std::byte *row(std::size_t layer, std::size_t part, std::size_t token) const {
        return memory_.get() + ((layer * 2 + part) * capacity_ + token) * row_bytes_;
    }

    // Room for `tokens` more rows; copies if the capacity is too small.
    void reserve(std::size_t tokens);
    // Counts rows that were written after the cached ones.
    void advance(std::size_t tokens) { length_ += tokens; }
    void truncate(std::size_t length_tokens) { length_ = length_tokens; }
    // Forgets all rows but these, which are ascending; row rows[i] becomes row i.
    void keep(const std::vector<std::size_t> &rows);
    // Gives memory beyond the cached rows back.
    void trim();

  private:
    struct Free {
        std::shared_ptr<CacheMeter> meter;
        std::size_t bytes = 0;

        void operator()(std::byte *memory) const {
            std::free(memory);
            *meter -= bytes;
        }
    };
    using Memory = std::unique_ptr<std::byte, Free>;

    Memory allocated(std::size_t capacity_tokens) const;
    void move_to(std::size_t capacity_tokens);

    std::size_t parts_, row_bytes_, capacity_, length_ = 0;
    std::shared_ptr<CacheMeter> meter_;
    Memory memory_;
};

}  // namespace vprm::internal
