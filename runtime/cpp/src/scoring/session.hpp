// A session: one (images, question) whose prefix is in a cache, and the steps committed after it.
//
// Sessions that come from one another share one cache. Each knows which rows are its own past, and the attention mask
// hides all others, so any tree of continuations fits. A tree belongs to one thread at a time: concurrent use throws a
// busy error.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "scoring/prefix.hpp"
#include "scoring/run.hpp"

namespace vprm::internal {

class Session {
  public:
    Session(std::shared_ptr<const Model> model, std::shared_ptr<Prefix> prefix);

    // Whole responses against the prefix, whatever is committed.
    ScoreResult score(const std::vector<Response> &responses, const ResponseOptions &how, const Cancellation *cancellation);
    // Commits a step after the committed ones; only its tokens are run. Nothing is committed if this throws.
    double append(const std::string &step, const Cancellation *cancellation);
    // Alternatives for the next step, each after the committed steps; none is committed.
    ScoreResult score_next(const std::vector<std::string> &alternatives, const Cancellation *cancellation);
    // A session of its own with the same committed steps; what both share is stored once.
    std::unique_ptr<Session> fork() const;
    // Forgets the last committed steps. Throws an input error if fewer are committed.
    void rewind(std::size_t steps);

    std::size_t prefix_tokens() const { return prefix_->ids.size(); }
    const std::vector<int> &tiles() const { return prefix_->tiles; }
    std::vector<double> step_scores() const;

  private:
    // The past after some committed steps: its token ids, and the branch that holds them.
    struct Past {
        Ids ids;
        Branch branch;
    };

    std::shared_ptr<const Model> model_;
    std::shared_ptr<Prefix> prefix_;
    std::vector<Past> past_;        // after 0, 1, 2, ... committed steps
    std::vector<StepScore> steps_;  // the committed ones
};

}  // namespace vprm::internal
