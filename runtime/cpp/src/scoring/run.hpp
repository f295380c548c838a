// Prepared responses through the engine: packed side by side, results in input order.
#pragma once

#include <vector>

#include "scoring/blocks.hpp"
#include "scoring/cache_tree.hpp"
#include "scoring/cancellation.hpp"
#include "scoring/model.hpp"
#include "scoring/result.hpp"

namespace vprm::internal {

// Responses that can be run, and the results of all, in which those that cannot carry their error already.
struct Prepared {
    std::vector<Candidate> candidates;
    std::vector<std::vector<std::string>> steps;  // of each response; empty for a failed one
    std::vector<CandidateScore> results;
};

// Whole responses to a question. `past` are the ids of the cached prefix.
Prepared prepared_responses(const Model &model, const std::string &question, const std::vector<int> &tiles,
                            const std::vector<Response> &responses, int max_steps, const Ids &past);

// Alternatives for the step after `done`, of which only that step is scored.
Prepared prepared_next_steps(const Model &model, const std::string &question, const std::vector<int> &tiles,
                             const std::vector<StepScore> &done, const std::vector<std::string> &alternatives,
                             const Ids &past);

// Fills in the results of all candidates. The cache is as before afterwards, also if this throws.
void run_candidates(const Model &model, CacheTree &tree, const Branch &branch, Prepared &prepared, Aggregate aggregate,
                    const Cancellation *cancellation);

// One candidate, in as many blocks as it needs; its rows stay in the cache. Its step scores.
std::vector<double> run_candidate(const Model &model, CacheTree &tree, const Branch &branch, const Candidate &candidate,
                                  const Cancellation *cancellation);

}  // namespace vprm::internal
