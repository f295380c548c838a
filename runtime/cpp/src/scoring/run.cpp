#include "scoring/run.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "scoring/probabilities.hpp"

namespace vprm::internal {

namespace {

CandidateScore failed(const Error &error) {
    CandidateScore result;
    result.error = error.what();
    result.reason = error.reason();
    return result;
}

CandidateScore scored(const std::vector<std::string> &steps, const double *scores, Aggregate aggregate) {
    CandidateScore result;
    result.is_scored = true;
    for (std::size_t i = 0; i < steps.size(); i++) result.steps.push_back({steps[i], scores[i]});
    result.score = aggregated(result.steps, aggregate);
    return result;
}

TokenisedPrompt prompt_of(const Model &model, const std::string &question, const std::vector<int> &tiles,
                          const std::vector<std::string> &steps) {
    TokenisedPrompt prompt = model.prompts.build(question, tiles, steps);
    model.check_length(prompt.ids.size(), "the response and its question take");
    return prompt;
}

void add(Prepared &prepared, TokenisedPrompt prompt, std::vector<std::string> steps, const Ids &past) {
    const std::size_t shared = common_prefix_tokens(past, prompt.ids);
    prepared.candidates.push_back({prepared.results.size(), std::move(prompt), shared});
    prepared.steps.push_back(std::move(steps));
    prepared.results.emplace_back();
}

void add_failed(Prepared &prepared, const Error &error) {
    if (error.code() != ErrorCode::kInput) throw error;
    prepared.steps.emplace_back();
    prepared.results.push_back(failed(error));
}

}  // namespace

Prepared prepared_responses(const Model &model, const std::string &question, const std::vector<int> &tiles,
                            const std::vector<Response> &responses, int max_steps, const Ids &past) {
    Prepared prepared;
    for (const Response &response : responses) {
        try {
            std::vector<std::string> steps = split_steps(response, model.manifest().score_rule, max_steps);
            TokenisedPrompt prompt = prompt_of(model, question, tiles, steps);
            add(prepared, std::move(prompt), std::move(steps), past);
        } catch (const Error &error) {
            add_failed(prepared, error);
        }
    }
    return prepared;
}

Prepared prepared_next_steps(const Model &model, const std::string &question, const std::vector<int> &tiles,
                             const std::vector<StepScore> &done, const std::vector<std::string> &alternatives,
                             const Ids &past) {
    std::vector<std::string> texts;
    for (const StepScore &step : done) texts.push_back(step.text);
    texts.emplace_back();
    Prepared prepared;
    for (const std::string &alternative : alternatives) {
        try {
            texts.back() = alternative;
            TokenisedPrompt prompt = prompt_of(model, question, tiles, texts);
            prompt.score_positions = {prompt.score_positions.back()};
            add(prepared, std::move(prompt), {alternative}, past);
        } catch (const Error &error) {
            add_failed(prepared, error);
        }
    }
    return prepared;
}

std::vector<double> run_candidate(const Model &model, CacheTree &tree, const Branch &branch, const Candidate &candidate,
                                  const Cancellation *cancellation) {
    KvCache &cache = tree.cache();
    const std::size_t shared = candidate.shared_tokens, end = shared + candidate.new_tokens();
    Rows visible = branch.rows();
    visible.resize(shared);
    std::vector<float> logits;
    for (std::size_t start = shared; start < end; start += model.max_block_tokens) {
        check(cancellation);
        const std::size_t stop = std::min(start + model.max_block_tokens, end), past = cache.length_tokens();
        std::vector<std::int64_t> positions;
        for (const std::int64_t position : candidate.prompt.score_positions)
            if (position >= static_cast<std::int64_t>(start) && position < static_cast<std::int64_t>(stop))
                positions.push_back(position - static_cast<std::int64_t>(start));
        const Block block = causal_block(candidate.prompt.ids, start, stop, past, visible, {}, std::move(positions));
        const std::vector<float> found = model.engine.forward(block, cache);
        logits.insert(logits.end(), found.begin(), found.end());
        for (std::size_t row = past; row < cache.length_tokens(); row++) visible.push_back(row);
    }
    return probabilities(logits, model.manifest().score_rule.candidates);
}

void run_candidates(const Model &model, CacheTree &tree, const Branch &branch, Prepared &prepared, Aggregate aggregate,
                    const Cancellation *cancellation) {
    KvCache &cache = tree.cache();
    const std::size_t past = cache.length_tokens();
    const Rows rows = branch.rows();
    try {
        for (const auto &group : grouped(prepared.candidates, model.max_block_tokens)) {
            check(cancellation);
            const std::vector<double> scores =
                group.size() == 1
                    ? run_candidate(model, tree, branch, *group[0], cancellation)
                    : probabilities(model.engine.forward(packed_block(group, past, rows), cache),
                                    model.manifest().score_rule.candidates);
            cache.truncate(past);
            const double *next = scores.data();
            for (const Candidate *candidate : group) {
                prepared.results[candidate->index] = scored(prepared.steps[candidate->index], next, aggregate);
                next += candidate->prompt.score_positions.size();
            }
        }
    } catch (...) {
        cache.truncate(past);
        throw;
    }
}

}  // namespace vprm::internal
