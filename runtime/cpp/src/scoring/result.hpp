// What scoring returns, and the options that decide it.
#pragma once

#include <string>
#include <vector>

namespace vprm::internal {

enum class Aggregate { kMean = 0, kMin, kLast, kProduct, kMax };

struct ResponseOptions {
    int max_steps = 0;  // 0: no limit
    Aggregate aggregate = Aggregate::kMean;
};

struct StepScore {
    std::string text;
    double score;
};

// One response's result. If it could not be scored, `error` and `reason` say why and there are no steps.
struct CandidateScore {
    bool is_scored = false;
    double score = 0;
    std::vector<StepScore> steps;
    std::string error;
    std::string reason;  // for programs, as the Python package's `code`
};

// Results of all responses to one question, in input order, duplicates kept.
struct ScoreResult {
    std::vector<int> tiles;
    std::vector<CandidateScore> candidates;

    // Index of the highest score, the first of equals; -1 if nothing could be scored.
    int best() const;
};

// Response score from at least one step score.
double aggregated(const std::vector<StepScore> &steps, Aggregate how);

}  // namespace vprm::internal
