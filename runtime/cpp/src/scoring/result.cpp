#include "scoring/result.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace vprm::internal {

namespace {

// The sum of all, rounded once: Python's math.fsum (Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997),
// for finite numbers in [0, 1].
double exact_sum(const std::vector<StepScore> &steps) {
    std::vector<double> parts;  // that do not overlap, smallest first
    for (const StepScore &step : steps) {
        double value = step.score;
        std::size_t kept = 0;
        for (double part : parts) {
            if (std::fabs(value) < std::fabs(part)) std::swap(value, part);
            const double high = value + part, low = part - (high - value);
            if (low != 0.0) parts[kept++] = low;
            value = high;
        }
        parts.resize(kept);
        parts.push_back(value);
    }
    double high = 0.0, low = 0.0;
    std::size_t left = parts.size();
    if (left > 0) high = parts[--left];
    while (left > 0) {
        const double value = high, part = parts[--left];
        high = value + part;
        low = part - (high - value);
        if (low != 0.0) break;
    }
    // Halfway cases round by what is left.
    if (left > 0 && ((low < 0.0 && parts[left - 1] < 0.0) || (low > 0.0 && parts[left - 1] > 0.0))) {
        const double doubled = low * 2.0, moved = high + doubled;
        if (doubled == moved - high) high = moved;
    }
    return high;
}

}  // namespace

double aggregated(const std::vector<StepScore> &steps, Aggregate how) {
    const auto by_score = [](const StepScore &a, const StepScore &b) { return a.score < b.score; };
    switch (how) {
        case Aggregate::kMean: return exact_sum(steps) / static_cast<double>(steps.size());
        case Aggregate::kMin: return std::min_element(steps.begin(), steps.end(), by_score)->score;
        case Aggregate::kMax: return std::max_element(steps.begin(), steps.end(), by_score)->score;
        case Aggregate::kLast: return steps.back().score;
        case Aggregate::kProduct: break;
    }
    double product = 1.0;
    for (const StepScore &step : steps) product *= step.score;
    return product;
}

int ScoreResult::best() const {
    int best = -1;
    for (std::size_t i = 0; i < candidates.size(); i++)
        if (candidates[i].is_scored && (best < 0 || candidates[i].score > candidates[static_cast<std::size_t>(best)].score))
            best = static_cast<int>(i);
    return best;
}

}  // namespace vprm::internal
