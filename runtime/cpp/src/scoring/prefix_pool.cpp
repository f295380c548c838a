#include "scoring/prefix_pool.hpp"

#include <algorithm>
#include <utility>

namespace vprm::internal {

std::shared_ptr<Prefix> PrefixPool::take(const std::string &key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const Kept &kept) { return kept.key == key; });
    if (found == kept_.end()) return nullptr;
    std::shared_ptr<Prefix> prefix = std::move(found->prefix);
    kept_.erase(found);
    return prefix;
}

void PrefixPool::give_back(const std::string &key, std::shared_ptr<Prefix> prefix) {
    prefix->tree.rest();
    std::list<Kept> replaced;  // another thread may have run the same prefix meanwhile; freed after the lock
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (auto kept = kept_.begin(); kept != kept_.end();) {
            const auto next = std::next(kept);
            if (kept->key == key) replaced.splice(replaced.end(), kept_, kept);
            kept = next;
        }
        kept_.push_front({key, std::move(prefix)});
    }
    replaced.clear();
    shrink();
}

void PrefixPool::shrink() {
    while (*meter_ > budget_bytes_) {
        std::list<Kept> last;
        const std::lock_guard<std::mutex> lock(mutex_);
        if (kept_.empty()) return;
        last.splice(last.end(), kept_, std::prev(kept_.end()));
        last.clear();  // within the lock, so that another thread does not drop one more for these bytes
    }
}

std::size_t PrefixPool::size_bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::size_t bytes = 0;
    for (const Kept &kept : kept_) bytes += kept.prefix->tree.cache().size_bytes();
    return bytes;
}

}  // namespace vprm::internal
