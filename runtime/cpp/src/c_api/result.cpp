#include <cmath>

#include "c_api/handles.hpp"

using namespace vprm::internal;

namespace {

const CandidateScore *candidate_of(const vprm_result *result, size_t index) {
    if (result == nullptr) return nullptr;
    const auto &candidates = result->result.candidates;
    return index < candidates.size() ? &candidates[index] : nullptr;
}

const StepScore *step_of(const vprm_result *result, size_t candidate, size_t step) {
    const CandidateScore *found = candidate_of(result, candidate);
    return found != nullptr && step < found->steps.size() ? &found->steps[step] : nullptr;
}

const char *text_unless_scored(const CandidateScore *candidate, const std::string CandidateScore::*text) {
    return candidate == nullptr || candidate->is_scored ? nullptr : (candidate->*text).c_str();
}

}  // namespace

extern "C" {

void vprm_result_free(vprm_result *result) { delete result; }

size_t vprm_result_image_count(const vprm_result *result) {
    return result != nullptr ? result->result.tiles.size() : 0;
}

int vprm_result_tiles(const vprm_result *result, size_t image) {
    return image < vprm_result_image_count(result) ? result->result.tiles[image] : 0;
}

size_t vprm_result_candidate_count(const vprm_result *result) {
    return result != nullptr ? result->result.candidates.size() : 0;
}

ptrdiff_t vprm_result_best(const vprm_result *result) { return result != nullptr ? result->result.best() : -1; }

const char *vprm_result_candidate_error(const vprm_result *result, size_t candidate) {
    return text_unless_scored(candidate_of(result, candidate), &CandidateScore::error);
}

const char *vprm_result_candidate_reason(const vprm_result *result, size_t candidate) {
    return text_unless_scored(candidate_of(result, candidate), &CandidateScore::reason);
}

double vprm_result_candidate_score(const vprm_result *result, size_t candidate) {
    const CandidateScore *found = candidate_of(result, candidate);
    return found != nullptr && found->is_scored ? found->score : std::nan("");
}

size_t vprm_result_step_count(const vprm_result *result, size_t candidate) {
    const CandidateScore *found = candidate_of(result, candidate);
    return found != nullptr ? found->steps.size() : 0;
}

double vprm_result_step_score(const vprm_result *result, size_t candidate, size_t step) {
    const StepScore *found = step_of(result, candidate, step);
    return found != nullptr ? found->score : std::nan("");
}

const char *vprm_result_step_text(const vprm_result *result, size_t candidate, size_t step, size_t *bytes) {
    const StepScore *found = step_of(result, candidate, step);
    if (bytes != nullptr) *bytes = found != nullptr ? found->text.size() : 0;
    return found != nullptr ? found->text.c_str() : nullptr;
}

}  // extern "C"
