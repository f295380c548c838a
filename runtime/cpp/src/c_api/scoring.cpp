// Scoring and sessions.
#include "c_api/handles.hpp"

using namespace vprm::internal;

namespace {

void require_responses(const vprm_responses *responses) {
    if (responses->responses.empty()) throw input_error("give at least one response");
}

// Alternatives are texts, each one step.
std::vector<std::string> alternatives_of(const vprm_responses *responses) {
    require_responses(responses);
    std::vector<std::string> texts;
    for (const Response &response : responses->responses) {
        const auto *text = std::get_if<std::string>(&response);
        if (text == nullptr) throw input_error("an alternative is one text: add it with vprm_responses_add_text()");
        texts.push_back(*text);
    }
    return texts;
}

ScoreResult scored(const vprm_model &model, const Input &input, const vprm_responses &responses,
                   const Cancellation *cancellation) {
    if (!model.pool->keeps_any())
        return Session(model.model, run_prefix(*model.model, input, cancellation))
            .score(responses.responses, responses.options, cancellation);
    const std::string key = prefix_key(*model.model, input);
    std::shared_ptr<Prefix> prefix = model.pool->take(key);
    if (prefix == nullptr) prefix = run_prefix(*model.model, input, cancellation);
    ScoreResult result;
    try {
        result = Session(model.model, prefix).score(responses.responses, responses.options, cancellation);
    } catch (...) {
        model.pool->give_back(key, std::move(prefix));
        throw;
    }
    model.pool->give_back(key, std::move(prefix));
    return result;
}

}  // namespace

extern "C" {

vprm_error *vprm_score(vprm_model *model, const vprm_input *input, const vprm_responses *responses,
                       const vprm_cancel *cancel, vprm_result **result) {
    return guarded([&] {
        require(model, input, responses, result);
        require_responses(responses);
        *result = new vprm_result{scored(*model, input->input, *responses, cancellation_of(cancel))};
    });
}

vprm_error *vprm_session_open(vprm_model *model, const vprm_input *input, const vprm_cancel *cancel,
                              vprm_session **session) {
    return guarded([&] {
        require(model, input, session);
        std::shared_ptr<Prefix> prefix = run_prefix(*model->model, input->input, cancellation_of(cancel));
        *session = new vprm_session{std::make_unique<Session>(model->model, std::move(prefix)), model->pool};
        model->pool->shrink();
    });
}

void vprm_session_free(vprm_session *session) { delete session; }

vprm_error *vprm_session_score(vprm_session *session, const vprm_responses *responses, const vprm_cancel *cancel,
                               vprm_result **result) {
    return guarded([&] {
        require(session, responses, result);
        require_responses(responses);
        *result = new vprm_result{
            session->session->score(responses->responses, responses->options, cancellation_of(cancel))};
    });
}

vprm_error *vprm_session_append(vprm_session *session, const char *text, size_t bytes, const vprm_cancel *cancel,
                                double *score) {
    return guarded([&] {
        require(session);
        const double found = session->session->append(text_argument(text, bytes), cancellation_of(cancel));
        session->pool->shrink();
        if (score != nullptr) *score = found;
    });
}

vprm_error *vprm_session_score_next(vprm_session *session, const vprm_responses *alternatives,
                                    const vprm_cancel *cancel, vprm_result **result) {
    return guarded([&] {
        require(session, alternatives, result);
        *result = new vprm_result{session->session->score_next(alternatives_of(alternatives), cancellation_of(cancel))};
    });
}

vprm_error *vprm_session_fork(const vprm_session *session, vprm_session **fork) {
    return guarded([&] {
        require(session, fork);
        *fork = new vprm_session{session->session->fork(), session->pool};
    });
}

vprm_error *vprm_session_rewind(vprm_session *session, size_t steps) {
    return guarded([&] {
        require(session);
        session->session->rewind(steps);
    });
}

vprm_error *vprm_session_step_count(const vprm_session *session, size_t *count) {
    return guarded([&] {
        require(session, count);
        *count = session->session->step_scores().size();
    });
}

vprm_error *vprm_session_step_score(const vprm_session *session, size_t step, double *score) {
    return guarded([&] {
        require(session, score);
        const std::vector<double> scores = session->session->step_scores();
        if (step >= scores.size())
            throw input_error("there is no committed step " + std::to_string(step) + " of " + std::to_string(scores.size()));
        *score = scores[step];
    });
}

size_t vprm_session_prefix_tokens(const vprm_session *session) {
    return session != nullptr ? session->session->prefix_tokens() : 0;
}

}  // extern "C"
