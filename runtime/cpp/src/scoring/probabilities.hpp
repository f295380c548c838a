// From candidate-token logits to step scores.
#pragma once

#include <vector>

#include "bundle/manifest.hpp"

namespace vprm::internal {

// Step scores [K] from logits [K, C]: softmax in float64, weighted by the rule's candidates. Throws an engine error if a
// logit is not finite.
std::vector<double> probabilities(const std::vector<float> &logits, const std::vector<CandidateToken> &candidates);

}  // namespace vprm::internal
