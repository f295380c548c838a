#include "scoring/session.hpp"

#include <utility>

#include "base/error.hpp"

namespace vprm::internal {

Session::Session(std::shared_ptr<const Model> model, std::shared_ptr<Prefix> prefix)
    : model_(std::move(model)), prefix_(std::move(prefix)), past_{{prefix_->ids, prefix_->branch}} {}

ScoreResult Session::score(const std::vector<Response> &responses, const ResponseOptions &how,
                           const Cancellation *cancellation) {
    const InUse guard(prefix_->tree);
    Prepared prepared =
        prepared_responses(*model_, prefix_->question, prefix_->tiles, responses, how.max_steps, past_[0].ids);
    prefix_->tree.reclaim();
    run_candidates(*model_, prefix_->tree, past_[0].branch, prepared, how.aggregate, cancellation);
    return {prefix_->tiles, std::move(prepared.results)};
}

double Session::append(const std::string &step, const Cancellation *cancellation) {
    const InUse guard(prefix_->tree);
    const Prepared prepared =
        prepared_next_steps(*model_, prefix_->question, prefix_->tiles, steps_, {step}, past_.back().ids);
    if (prepared.candidates.empty())
        throw Error(ErrorCode::kInput, prepared.results[0].error,
                    prepared.results[0].reason == "prompt_too_long" ? "prompt_too_long" : nullptr);
    CacheTree &tree = prefix_->tree;
    tree.reclaim();
    const Candidate &candidate = prepared.candidates[0];
    const std::size_t start = tree.cache().length_tokens();
    double score = 0;
    try {
        score = run_candidate(*model_, tree, past_.back().branch, candidate, cancellation).back();
    } catch (...) {
        tree.cache().truncate(start);
        throw;
    }
    Branch branch = tree.grown(past_.back().branch, candidate.shared_tokens, start);
    Ids ids(candidate.prompt.ids.begin(), candidate.prompt.ids.begin() + static_cast<std::ptrdiff_t>(branch.tokens()));
    past_.reserve(past_.size() + 1);
    steps_.push_back({step, score});
    past_.push_back({std::move(ids), std::move(branch)});
    return score;
}

ScoreResult Session::score_next(const std::vector<std::string> &alternatives, const Cancellation *cancellation) {
    const InUse guard(prefix_->tree);
    Prepared prepared =
        prepared_next_steps(*model_, prefix_->question, prefix_->tiles, steps_, alternatives, past_.back().ids);
    prefix_->tree.reclaim();
    run_candidates(*model_, prefix_->tree, past_.back().branch, prepared, Aggregate::kMean, cancellation);
    return {prefix_->tiles, std::move(prepared.results)};
}

std::unique_ptr<Session> Session::fork() const {
    const InUse guard(prefix_->tree);
    return std::make_unique<Session>(*this);
}

void Session::rewind(std::size_t steps) {
    const InUse guard(prefix_->tree);
    if (steps > steps_.size())
        throw input_error("cannot rewind " + std::to_string(steps) + " steps, " + std::to_string(steps_.size()) +
                          " are committed");
    past_.resize(past_.size() - steps);
    steps_.resize(steps_.size() - steps);
    prefix_->tree.reclaim();
}

std::vector<double> Session::step_scores() const {
    const InUse guard(prefix_->tree);
    std::vector<double> scores;
    for (const StepScore &step : steps_) scores.push_back(step.score);
    return scores;
}

}  // namespace vprm::internal
