// libvprm for C++17: RAII and exceptions over the C interface of vprm.h. Header-only, so compilers may differ.
//
//     vprm::Model model("bundle");
//     vprm::Input input("How many?");
//     input.add_rgb8(pixels, width, height, stride);
//     vprm::Result result = model.score(input, vprm::Responses().add("First step.\n\nSecond step."));
//     result.candidates()[0].steps[1].score;
//
// Threads may share a Model. A Session and its forks belong to one thread at a time; see vprm.h for all rules.
#ifndef VPRM_VPRM_HPP
#define VPRM_VPRM_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "vprm/vprm.h"

namespace vprm {

// What every function of this header throws. `code` is for decisions, `reason` a finer name for them.
class Error : public std::runtime_error {
  public:
    Error(vprm_error_code code, const std::string &message, std::string reason)
        : std::runtime_error(message), code_(code), reason_(std::move(reason)) {}
    vprm_error_code code() const noexcept { return code_; }
    const std::string &reason() const noexcept { return reason_; }

  private:
    vprm_error_code code_;
    std::string reason_;
};

namespace detail {

inline void check(vprm_error *error) {
    if (error == nullptr) return;
    const std::unique_ptr<vprm_error, void (*)(vprm_error *)> owned(error, vprm_error_free);
    throw Error(vprm_error_get_code(error), vprm_error_message(error), vprm_error_reason(error));
}

template <typename T, void (*Free)(T *)>
struct Deleter {
    void operator()(T *handle) const { Free(handle); }
};
template <typename T, void (*Free)(T *)>
using Handle = std::unique_ptr<T, Deleter<T, Free>>;

}  // namespace detail

// A view of somebody else's array, as std::span of C++20.
template <typename T>
class Span {
  public:
    Span() = default;
    Span(T *data, std::size_t size) : data_(data), size_(size) {}
    template <typename Container, typename = decltype(std::declval<Container &>().data())>
    Span(Container &&container) : data_(container.data()), size_(container.size()) {}
    T *data() const { return data_; }
    std::size_t size() const { return size_; }
    T *begin() const { return data_; }
    T *end() const { return data_ + size_; }
    T &operator[](std::size_t index) const { return data_[index]; }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

// Stops calls that were given it: from any thread, or by a deadline.
class Cancellation {
  public:
    Cancellation() {
        vprm_cancel *made = nullptr;
        detail::check(vprm_cancel_new(&made));
        handle_.reset(made);
    }
    void cancel() { vprm_cancel_now(handle_.get()); }
    void set_deadline(std::chrono::milliseconds from_now) { vprm_cancel_set_deadline_ms(handle_.get(), from_now.count()); }
    const vprm_cancel *get() const { return handle_.get(); }

  private:
    detail::Handle<vprm_cancel, vprm_cancel_free> handle_;
};

class ModelOptions {
  public:
    ModelOptions() {
        vprm_model_options *made = nullptr;
        detail::check(vprm_model_options_new(&made));
        handle_.reset(made);
    }
    ModelOptions &ort_library(const std::string &path) {
        detail::check(vprm_model_options_set_ort_library(handle_.get(), path.c_str()));
        return *this;
    }
    ModelOptions &ort_api(const void *ort_api_base) {
        detail::check(vprm_model_options_set_ort_api(handle_.get(), ort_api_base));
        return *this;
    }
    ModelOptions &threads(int threads) {
        detail::check(vprm_model_options_set_threads(handle_.get(), threads));
        return *this;
    }
    ModelOptions &max_block_tokens(std::size_t tokens) {
        detail::check(vprm_model_options_set_max_block_tokens(handle_.get(), tokens));
        return *this;
    }
    ModelOptions &prefix_cache_bytes(std::size_t bytes) {
        detail::check(vprm_model_options_set_prefix_cache_bytes(handle_.get(), bytes));
        return *this;
    }
    // The callback must outlive the model, be safe for threads, and not throw.
    ModelOptions &log(const std::function<void(int level, std::string_view message)> &callback) {
        const auto pass_on = [](void *context, int level, const char *message) {
            (*static_cast<const std::function<void(int, std::string_view)> *>(context))(level, message);
        };
        auto *context = const_cast<std::function<void(int, std::string_view)> *>(&callback);
        detail::check(vprm_model_options_set_log(handle_.get(), pass_on, context));
        return *this;
    }
    ModelOptions &log(std::function<void(int, std::string_view)> &&) = delete;  // it would not outlive the model
    const vprm_model_options *get() const { return handle_.get(); }

  private:
    detail::Handle<vprm_model_options, vprm_model_options_free> handle_;
};

// Images and a question. Pixels are not copied: they must stay while a call takes the input.
class Input {
  public:
    explicit Input(std::string_view question) {
        vprm_input *made = nullptr;
        detail::check(vprm_input_new(&made));
        handle_.reset(made);
        detail::check(vprm_input_set_question(made, question.data(), question.size()));
    }
    Input &add_rgb8(const std::uint8_t *pixels, int width_px, int height_px, std::size_t stride_bytes) {
        detail::check(vprm_input_add_rgb8(handle_.get(), pixels, width_px, height_px, stride_bytes));
        return *this;
    }
    // Rows without gaps. Throws if the view is too small.
    Input &add_rgb8(Span<const std::uint8_t> pixels, int width_px, int height_px) {
        const std::size_t stride = static_cast<std::size_t>(width_px > 0 ? width_px : 0) * 3;
        if (height_px > 0 && pixels.size() < stride * static_cast<std::size_t>(height_px))
            throw Error(VPRM_INPUT, "there are fewer pixels than the image's size needs", "invalid_input");
        return add_rgb8(pixels.data(), width_px, height_px, stride);
    }
    Input &add_tiles(const std::uint8_t *tiles, int count) {
        detail::check(vprm_input_add_tiles(handle_.get(), tiles, count));
        return *this;
    }
    Input &max_tiles(int max_tiles) {
        detail::check(vprm_input_set_max_tiles(handle_.get(), max_tiles));
        return *this;
    }
    const vprm_input *get() const { return handle_.get(); }

  private:
    detail::Handle<vprm_input, vprm_input_free> handle_;
};

class Responses {
  public:
    Responses() {
        vprm_responses *made = nullptr;
        detail::check(vprm_responses_new(&made));
        handle_.reset(made);
    }
    // A text that is split into steps; as an alternative of score_next(), one step.
    Responses &add(std::string_view text) {
        detail::check(vprm_responses_add_text(handle_.get(), text.data(), text.size()));
        return *this;
    }
    Responses &add_steps(const std::vector<std::string> &steps) {
        detail::check(vprm_responses_add_steps(handle_.get()));
        for (const std::string &step : steps)
            detail::check(vprm_responses_add_step(handle_.get(), step.data(), step.size()));
        return *this;
    }
    Responses &max_steps(int max_steps) {
        detail::check(vprm_responses_set_max_steps(handle_.get(), max_steps));
        return *this;
    }
    Responses &aggregate(vprm_aggregate aggregate) {
        detail::check(vprm_responses_set_aggregate(handle_.get(), aggregate));
        return *this;
    }
    const vprm_responses *get() const { return handle_.get(); }

  private:
    detail::Handle<vprm_responses, vprm_responses_free> handle_;
};

struct Step {
    std::string text;
    double score;  // 0 to 1: the probability of being right
};

// A candidate without a score says why in `error`.
struct Candidate {
    std::optional<double> score;
    std::vector<Step> steps;
    std::string error, reason;
};

class Result {
  public:
    explicit Result(vprm_result *handle) {
        const detail::Handle<vprm_result, vprm_result_free> owned(handle);
        for (std::size_t i = 0; i < vprm_result_image_count(handle); i++) tiles_.push_back(vprm_result_tiles(handle, i));
        for (std::size_t i = 0; i < vprm_result_candidate_count(handle); i++) candidates_.push_back(candidate(handle, i));
        if (vprm_result_best(handle) >= 0) best_ = static_cast<std::size_t>(vprm_result_best(handle));
    }
    const std::vector<int> &tiles() const & { return tiles_; }  // of each image, thumbnail included
    const std::vector<Candidate> &candidates() const & { return candidates_; }  // in input order
    std::vector<int> tiles() && { return std::move(tiles_); }
    std::vector<Candidate> candidates() && { return std::move(candidates_); }
    std::optional<std::size_t> best() const { return best_; }  // the highest score, the first of equals

  private:
    static Candidate candidate(const vprm_result *result, std::size_t index) {
        Candidate made;
        if (const char *error = vprm_result_candidate_error(result, index)) {
            made.error = error;
            made.reason = vprm_result_candidate_reason(result, index);
            return made;
        }
        made.score = vprm_result_candidate_score(result, index);
        for (std::size_t i = 0; i < vprm_result_step_count(result, index); i++) {
            std::size_t bytes = 0;
            const char *text = vprm_result_step_text(result, index, i, &bytes);
            made.steps.push_back({std::string(text, bytes), vprm_result_step_score(result, index, i)});
        }
        return made;
    }

    std::vector<int> tiles_;
    std::vector<Candidate> candidates_;
    std::optional<std::size_t> best_;
};

// Images and question run once, then any tree of steps.
class Session {
  public:
    Result score(const Responses &responses, const Cancellation *cancellation = nullptr) {
        vprm_result *result = nullptr;
        detail::check(vprm_session_score(handle_.get(), responses.get(), cancel_of(cancellation), &result));
        return Result(result);
    }
    double append(std::string_view step, const Cancellation *cancellation = nullptr) {
        double score = 0;
        detail::check(vprm_session_append(handle_.get(), step.data(), step.size(), cancel_of(cancellation), &score));
        return score;
    }
    Result score_next(const Responses &alternatives, const Cancellation *cancellation = nullptr) {
        vprm_result *result = nullptr;
        detail::check(vprm_session_score_next(handle_.get(), alternatives.get(), cancel_of(cancellation), &result));
        return Result(result);
    }
    Session fork() const {
        vprm_session *made = nullptr;
        detail::check(vprm_session_fork(handle_.get(), &made));
        return Session(made);
    }
    void rewind(std::size_t steps = 1) { detail::check(vprm_session_rewind(handle_.get(), steps)); }
    std::vector<double> step_scores() const {
        std::size_t count = 0;
        detail::check(vprm_session_step_count(handle_.get(), &count));
        std::vector<double> scores(count);
        for (std::size_t i = 0; i < count; i++) detail::check(vprm_session_step_score(handle_.get(), i, &scores[i]));
        return scores;
    }
    std::size_t prefix_tokens() const { return vprm_session_prefix_tokens(handle_.get()); }

  private:
    friend class Model;
    explicit Session(vprm_session *handle) : handle_(handle) {}
    static const vprm_cancel *cancel_of(const Cancellation *given) { return given != nullptr ? given->get() : nullptr; }

    detail::Handle<vprm_session, vprm_session_free> handle_;
};

// An opened bundle. Threads may share it.
class Model {
  public:
    explicit Model(const std::string &bundle) { open(bundle, nullptr); }
    Model(const std::string &bundle, const ModelOptions &options) { open(bundle, options.get()); }

    Result score(const Input &input, const Responses &responses, const Cancellation *cancellation = nullptr) const {
        vprm_result *result = nullptr;
        detail::check(vprm_score(handle_.get(), input.get(), responses.get(),
                                 cancellation != nullptr ? cancellation->get() : nullptr, &result));
        return Result(result);
    }
    Session session(const Input &input, const Cancellation *cancellation = nullptr) const {
        vprm_session *made = nullptr;
        detail::check(vprm_session_open(handle_.get(), input.get(), cancellation != nullptr ? cancellation->get() : nullptr,
                                        &made));
        return Session(made);
    }
    std::string description() const { return vprm_model_description(handle_.get()); }
    int tile_size_px() const { return vprm_model_tile_size(handle_.get()); }
    std::size_t prefix_cache_bytes() const { return vprm_model_prefix_cache_bytes(handle_.get()); }

  private:
    void open(const std::string &bundle, const vprm_model_options *options) {
        vprm_model *made = nullptr;
        detail::check(vprm_model_open(bundle.c_str(), options, &made));
        handle_.reset(made);
    }

    detail::Handle<vprm_model, vprm_model_free> handle_;
};

// Checks every file of a bundle against the SHA-256 in its manifest.
inline void verify_bundle(const std::string &bundle) { detail::check(vprm_bundle_verify(bundle.c_str())); }

}  // namespace vprm

#endif
