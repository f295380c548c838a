// Prefixes kept across calls by content, least recently used first to go, within a budget of real bytes.
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
    explicit PrefixPool(std::size_t budget_bytes) : budget_bytes_(budget_bytes) {}

    bool keeps_any() const { return budget_bytes_ > 0; }

    // The kept prefix of that key, out of the pool until it is given back; NULL if there is none, or while another
    // thread has it.
    std::shared_ptr<Prefix> take(const std::string &key);

    // Keeps a prefix that nobody uses any more. Others go until the caches' capacities fit the budget.
    void give_back(const std::string &key, std::shared_ptr<Prefix> prefix);

    // Real bytes of all kept caches.
    std::size_t size_bytes() const;

  private:
    struct Kept {
        std::string key;
        std::shared_ptr<Prefix> prefix;
    };

    std::size_t held_bytes() const;

    mutable std::mutex mutex_;
    std::list<Kept> kept_;  // the last used first
    const std::size_t budget_bytes_;
};

}  // namespace vprm::internal
