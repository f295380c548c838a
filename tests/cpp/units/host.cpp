// A host that runs ONNX Runtime itself, and its log.
#include <dlfcn.h>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <vector>

#include "ort_abi.h"
#include "vprm/vprm.hpp"

namespace {

std::string bundle() { return std::getenv("VPRM_TEST_BUNDLE"); }

// An environment variable that is another one for a while.
class Setting {
  public:
    Setting(const char *name, const char *value) : name_(name), before_(std::getenv(name)) { setenv(name, value, 1); }
    ~Setting() { setenv(name_, before_.c_str(), 1); }

  private:
    const char *name_;
    std::string before_;
};

// What a program has that uses ONNX Runtime for its own graphs: an environment and a session.
class Host {
  public:
    explicit Host(const std::string &graph) {
        void *library = dlopen(std::getenv("VPRM_ORT_LIBRARY"), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        REQUIRE(library != nullptr);
        base_ = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(library, "OrtGetApiBase"))();
        const OrtApi *api = api_ = base_->get_api(ORT_API_VERSION);
        const auto ignore = [](void *, int, const char *, const char *, const char *, const char *) {};
        REQUIRE(ORT_CREATE_ENV(ignore, nullptr, 3, "host", &env_) == nullptr);
        OrtSessionOptions *options = nullptr;
        REQUIRE(ORT_CREATE_SESSION_OPTIONS(&options) == nullptr);
        REQUIRE(ORT_CREATE_SESSION(env_, graph.c_str(), options, &session_) == nullptr);
        ORT_RELEASE_SESSION_OPTIONS(options);
    }
    ~Host() {
        const OrtApi *api = api_;
        ORT_RELEASE_SESSION(session_);
        ORT_RELEASE_ENV(env_);
    }
    Host(const Host &) = delete;

    const OrtApiBase *base() const { return base_; }

    std::size_t inputs() const {
        const OrtApi *api = api_;
        std::size_t count = 0;
        REQUIRE(ORT_INPUT_COUNT_OF_SESSION(session_, &count) == nullptr);
        return count;
    }

  private:
    const OrtApiBase *base_;
    const OrtApi *api_;
    OrtEnv *env_ = nullptr;
    OrtSession *session_ = nullptr;
};

double score(const vprm::Model &model) {
    return *model.score(vprm::Input("What is 1 + 1?"), vprm::Responses().add("It is 2.")).candidates().at(0).score;
}

}  // namespace

TEST_CASE("a host passes its own ONNX Runtime, and nothing else is loaded") {
    const double expected = score(vprm::Model(bundle(), vprm::ModelOptions().threads(1)));
    auto host = std::make_unique<Host>(bundle() + "/llm.onnx");
    const Setting nothing("VPRM_ORT_LIBRARY", "/no/such/library.so");
    CHECK_THROWS_AS(vprm::Model{bundle()}, vprm::Error);
    auto model = std::make_unique<vprm::Model>(bundle(), vprm::ModelOptions().threads(1).ort_api(host->base()));
    CHECK(score(*model) == expected);
    model.reset();
    CHECK(host->inputs() > 5);  // the host's own session goes on
    model = std::make_unique<vprm::Model>(bundle(), vprm::ModelOptions().threads(1).ort_api(host->base()));
    host.reset();
    CHECK(score(*model) == expected);  // and so does the library's
}

TEST_CASE("an ONNX Runtime of another age is refused") {
    static const OrtApiBase old{[](std::uint32_t) -> const OrtApi * { return nullptr; }, [] { return "1.2.3"; }};
    CHECK_THROWS_WITH_AS(vprm::Model(bundle(), vprm::ModelOptions().ort_api(&old)),
                         "ONNX Runtime 1.2.3 is too old: use version 1.24 or later", vprm::Error);
}

TEST_CASE("the log has the library's messages and ONNX Runtime's") {
    std::mutex mutex;
    std::vector<std::pair<int, std::string>> messages;
    const std::function<void(int, std::string_view)> keep = [&](int level, std::string_view message) {
        const std::lock_guard<std::mutex> lock(mutex);
        messages.emplace_back(level, message);
    };
    const vprm::Model model(bundle(), vprm::ModelOptions().threads(1).log(keep));
    REQUIRE(messages.size() == 1);
    CHECK(messages[0].first == VPRM_LOG_INFO);
    CHECK(messages[0].second == "opened " + bundle() + ": " + model.description());
    score(model);
    CHECK(messages.size() == 1);
}

TEST_CASE("options out of range are refused by name") {
    vprm::ModelOptions options;
    CHECK_THROWS_WITH_AS(options.threads(-1), "threads must not be negative, got -1", vprm::Error);
    CHECK_THROWS_AS(options.max_block_tokens(0), vprm::Error);
    CHECK_THROWS_AS(vprm::Responses().max_steps(-1), vprm::Error);
    CHECK_THROWS_AS(vprm::Responses().aggregate(static_cast<vprm_aggregate>(9)), vprm::Error);
    vprm::Input input("Q");
    CHECK_THROWS_AS(input.max_tiles(257), vprm::Error);
    const std::vector<std::uint8_t> pixels(3 * 4 * 4);
    CHECK_THROWS_AS(input.add_rgb8(pixels.data(), 4, 4, 11), vprm::Error);
    CHECK_THROWS_AS(input.add_rgb8(pixels, 5, 4), vprm::Error);
    CHECK_THROWS_AS(input.add_rgb8(pixels.data(), 4, 4, static_cast<std::size_t>(-12)), vprm::Error);
    CHECK_THROWS_AS(input.add_rgb8(pixels.data(), 0, 4, 12), vprm::Error);
    CHECK_THROWS_AS(input.add_tiles(pixels.data(), 0), vprm::Error);
}

TEST_CASE("a handle that is NULL has nothing to say, and can be asked") {
    vprm_cancel_now(nullptr);
    vprm_cancel_set_deadline_ms(nullptr, 1);
    CHECK(vprm_error_get_code(nullptr) == 0);
    CHECK(std::string(vprm_error_message(nullptr)).empty());
    CHECK(std::string(vprm_error_reason(nullptr)).empty());
    CHECK(std::string(vprm_model_description(nullptr)).empty());
    CHECK(vprm_model_tile_size(nullptr) == 0);
    CHECK(vprm_model_prefix_cache_bytes(nullptr) == 0);
    CHECK(vprm_result_image_count(nullptr) == 0);
    CHECK(vprm_result_tiles(nullptr, 0) == 0);
    CHECK(vprm_result_candidate_count(nullptr) == 0);
    CHECK(vprm_result_best(nullptr) == -1);
    CHECK(std::isnan(vprm_result_candidate_score(nullptr, 0)));
    CHECK(vprm_result_candidate_error(nullptr, 0) == nullptr);
    CHECK(vprm_result_step_count(nullptr, 0) == 0);
    CHECK(vprm_result_step_text(nullptr, 0, 0, nullptr) == nullptr);
    CHECK(vprm_session_prefix_tokens(nullptr) == 0);
}
