#include "scoring/probabilities.hpp"

#include <algorithm>
#include <cmath>

#include "base/error.hpp"

namespace vprm::internal {

std::vector<double> probabilities(const std::vector<float> &logits, const std::vector<CandidateToken> &candidates) {
    const std::size_t width = candidates.size();
    std::vector<double> scores;
    for (std::size_t start = 0; start < logits.size(); start += width) {
        const float *row = logits.data() + start;
        if (!std::all_of(row, row + width, [](float logit) { return std::isfinite(logit); }))
            throw engine_error("the LLM graph gave logits that are not finite: its precision overflows on this input; "
                               "export the checkpoint as fp32",
                               "not_finite");
        const double largest = *std::max_element(row, row + width);
        double weighted = 0.0, total = 0.0;
        for (std::size_t c = 0; c < width; c++) {
            const double power = std::exp(static_cast<double>(row[c]) - largest);
            weighted += power * candidates[c].weight;
            total += power;
        }
        scores.push_back(weighted / total);
    }
    return scores;
}

}  // namespace vprm::internal
