// A caller's way to stop a call between two blocks: from another thread, or by a deadline.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "base/error.hpp"

namespace vprm::internal {

class Cancellation {
  public:
    void cancel() { is_cancelled_.store(true, std::memory_order_relaxed); }
    void set_deadline_ms(std::int64_t from_now) {
        constexpr std::int64_t kLongest = std::int64_t{1} << 53;  // the sum does not overflow
        deadline_ms_.store(now_ms() + std::clamp<std::int64_t>(from_now, 0, kLongest), std::memory_order_relaxed);
    }

    // Throws if cancelled or past the deadline.
    void check() const {
        if (is_cancelled_.load(std::memory_order_relaxed)) throw Error(ErrorCode::kCancelled, "the call was cancelled");
        const std::int64_t deadline = deadline_ms_.load(std::memory_order_relaxed);
        if (deadline != kNone && now_ms() >= deadline)
            throw Error(ErrorCode::kDeadline, "the deadline has passed: nothing was committed; give the call more time");
    }

  private:
    static constexpr std::int64_t kNone = INT64_MAX;

    static std::int64_t now_ms() {
        const auto since = std::chrono::steady_clock::now().time_since_epoch();
        return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
    }

    std::atomic<bool> is_cancelled_{false};
    std::atomic<std::int64_t> deadline_ms_{kNone};
};

// No cancellation is a null pointer.
inline void check(const Cancellation *cancellation) {
    if (cancellation != nullptr) cancellation->check();
}

}  // namespace vprm::internal
