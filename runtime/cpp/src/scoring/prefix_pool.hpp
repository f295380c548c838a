// Prefixes kept across calls by content, least recently used first to go.
//
// The budget is of real bytes and bounds all caches of a model, those of open sessions and of calls under way included:
// kept prefixes make room for what is in use, which is never taken.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "scoring/prefix.hpp"

namespace vprm::internal {

class PrefixPool {
  public:
    PrefixPool(std::size_t budget_bytes, std::shared_ptr<const CacheMeter> meter)
        : budget_bytes_(budget_bytes), meter_(std::move(meter)) {}

    bool keeps_any() const { return budget_bytes_ > 0; }

    // The kept prefix of that key, out of the pool until it is given back; NULL if there is none, or while another
    // thread has it.
    std::shared_ptr<Prefix> take(const std::string &key);

    // Keeps a prefix that nobody uses any more, as far as the budget goes.
    void give_back(const std::string &key, std::shared_ptr<Prefix> prefix);

    // Gives kept prefixes up until all caches fit the budget: called after work that may have grown one.
    void shrink();

    // Real bytes of all kept caches.
    std::size_t size_bytes() const;

  private:
    struct Kept {
        std::string key;
        std::shared_ptr<Prefix> prefix;
    };

    mutable std::mutex mutex_;
    std::list<Kept> kept_;  // the last used first
    const std::size_t budget_bytes_;
    const std::shared_ptr<const CacheMeter> meter_;
};

}  // namespace vprm::internal
