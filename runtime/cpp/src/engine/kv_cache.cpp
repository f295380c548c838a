#include "engine/kv_cache.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

namespace vprm::internal {

KvCache::KvCache(const Manifest &manifest, std::size_t capacity_tokens, std::shared_ptr<CacheMeter> meter)
    : parts_(static_cast<std::size_t>(manifest.model.layers) * 2),
      row_bytes_(static_cast<std::size_t>(manifest.model.kv_width()) * float_bytes(manifest.llm.io_type)),
      capacity_(capacity_tokens), meter_(std::move(meter)), memory_(allocated(capacity_tokens)) {}

KvCache::Memory KvCache::allocated(std::size_t capacity_tokens) const {
    const std::size_t bytes_per_token = parts_ * row_bytes_, tokens = std::max<std::size_t>(capacity_tokens, 1);
    if (tokens > std::numeric_limits<std::size_t>::max() / bytes_per_token) throw std::bad_alloc();
    auto *memory = static_cast<std::byte *>(std::malloc(tokens * bytes_per_token));
    if (memory == nullptr) throw std::bad_alloc();
    *meter_ += tokens * bytes_per_token;
    return Memory(memory, Free{meter_, tokens * bytes_per_token});
}

void KvCache::move_to(std::size_t capacity_tokens) {
    Memory moved = allocated(capacity_tokens);
    for (std::size_t part = 0; part < parts_; part++)
        std::memcpy(moved.get() + part * capacity_tokens * row_bytes_, memory_.get() + part * capacity_ * row_bytes_,
                    length_ * row_bytes_);
    memory_ = std::move(moved);
    capacity_ = capacity_tokens;
}

void KvCache::reserve(std::size_t tokens) {
    const std::size_t needed = length_ + tokens;
    if (needed > capacity_) move_to(std::max(needed, capacity_ + capacity_ / 2));
}

void KvCache::trim() {
    if (capacity_ > length_) move_to(length_);
}

void KvCache::keep(const std::vector<std::size_t> &rows) {
    for (std::size_t part = 0; part < parts_; part++) {
        std::byte *base = memory_.get() + part * capacity_ * row_bytes_;
        for (std::size_t to = 0; to < rows.size(); to++)
            if (rows[to] != to) std::memcpy(base + to * row_bytes_, base + rows[to] * row_bytes_, row_bytes_);
    }
    length_ = rows.size();
}

}  // namespace vprm::internal
