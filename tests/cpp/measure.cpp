// How long scoring takes beside ONNX Runtime's own time, and how threads share a model. measure.py runs it.
//
//     vprm_measure BUNDLE REQUEST overhead ROUNDS     one thread: CPU time of calls, and the part spent in graphs
//     vprm_measure BUNDLE REQUEST threads N ROUNDS    N threads of one model, each ROUNDS calls
//
// REQUEST is a JSON file as the test runner's "score"; the result is a line of JSON.
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <future>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "ort_abi.h"
#include "vprm/vprm.hpp"

namespace {

using nlohmann::json;

double cpu_s() {  // of this thread
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

using RunGraph = OrtStatus *(*)(OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, std::size_t,
                                const char *const *, std::size_t, OrtValue **);
constexpr int kRunPlace = 9;  // of ORT_RUN
RunGraph run_of_library;
OrtApi timed_api;
const OrtApiBase *library_base;
double graph_cpu_s = 0;
int graph_calls = 0;

OrtStatus *timed_run(OrtSession *session, const OrtRunOptions *options, const char *const *input_names,
                     const OrtValue *const *inputs, std::size_t input_count, const char *const *output_names,
                     std::size_t output_count, OrtValue **outputs) {
    const double start = cpu_s();
    OrtStatus *status = run_of_library(session, options, input_names, inputs, input_count, output_names, output_count, outputs);
    graph_cpu_s += cpu_s() - start;
    graph_calls++;
    return status;
}

const OrtApi *timed_table(std::uint32_t version) {
    const OrtApi *api = library_base->get_api(version);
    if (api == nullptr) return nullptr;
    timed_api = *api;
    run_of_library = reinterpret_cast<RunGraph>(api->functions[kRunPlace]);
    timed_api.functions[kRunPlace] = reinterpret_cast<void (*)()>(timed_run);
    return &timed_api;
}

const OrtApiBase *timed_base() {
    void *library = dlopen(std::getenv("VPRM_ORT_LIBRARY"), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) throw std::runtime_error(dlerror());
    library_base = reinterpret_cast<const OrtApiBase *(*)()>(dlsym(library, "OrtGetApiBase"))();
    static const OrtApiBase base{timed_table, [] { return library_base->get_version(); }};
    return &base;
}

// A call's input and responses; the pixels stay in `pixels`.
struct Request {
    std::vector<std::vector<std::uint8_t>> pixels;
    vprm::Input input;
    vprm::Responses responses;

    explicit Request(const json &given) : input(given.at("question").get<std::string>()) {
        for (const json &image : given.at("images")) {
            std::ifstream file(image.at("file").get<std::string>(), std::ios::binary);
            pixels.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
            input.add_rgb8(pixels.back().data(), image.at("width"), image.at("height"), image.at("stride"));
        }
        input.max_tiles(given.at("max_tiles"));
        for (const json &response : given.at("responses")) responses.add_steps(response.get<std::vector<std::string>>());
    }

    double score(const vprm::Model &model) const { return *model.score(input, responses).candidates().at(0).score; }
};

// A number of /proc/self/NAME in kB.
long kilobytes(const char *name, const std::string &key) {
    std::ifstream file(name);
    for (std::string line; std::getline(file, line);)
        if (line.rfind(key + ":", 0) == 0) return std::stol(line.substr(key.size() + 1));
    return -1;
}

json overhead(const std::string &bundle, const Request &request, int rounds) {
    const vprm::Model model(bundle, vprm::ModelOptions().threads(1).ort_api(timed_base()));
    request.score(model);  // not measured: it grows ONNX Runtime's arenas
    json found = json::array();
    for (int round = 0; round < rounds; round++) {
        graph_cpu_s = 0, graph_calls = 0;
        const double start = cpu_s();
        request.score(model);
        const double total = cpu_s() - start;
        found.push_back({{"cpu_s", total}, {"graphs_cpu_s", graph_cpu_s}, {"graph_calls", graph_calls}});
    }
    return found;
}

json shared_by_threads(const std::string &bundle, const Request &request, int threads, int rounds) {
    const vprm::Model model(bundle, vprm::ModelOptions().threads(1));
    const double expected = request.score(model);
    std::vector<std::thread> workers;
    std::vector<std::promise<void>> warm(static_cast<std::size_t>(threads));
    std::promise<void> begin;
    const std::shared_future<void> begun = begin.get_future().share();
    std::vector<char> equal(static_cast<std::size_t>(threads), 1);
    for (std::size_t number = 0; number < warm.size(); number++)
        workers.emplace_back([&, number] {
            request.score(model);  // as each of the Python processes does before the clock runs
            warm[number].set_value();
            begun.wait();
            for (int round = 0; round < rounds; round++)
                if (request.score(model) != expected) equal[number] = 0;
        });
    for (std::promise<void> &one : warm) one.get_future().wait();
    const auto start = std::chrono::steady_clock::now();
    begin.set_value();
    for (std::thread &worker : workers) worker.join();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    for (const char is_equal : equal)
        if (is_equal == 0) throw std::runtime_error("threads got different scores");
    return {{"calls", threads * rounds},
            {"wall_s", wall.count()},
            {"score", expected},
            {"pss_kb", kilobytes("/proc/self/smaps_rollup", "Pss")},
            {"peak_rss_kb", kilobytes("/proc/self/status", "VmHWM")}};
}

}  // namespace

int main(int count, char **arguments) try {
    if (count < 5 || (std::string(arguments[3]) == "threads" && count < 6)) return std::cerr << "usage: vprm_measure BUNDLE REQUEST overhead ROUNDS | threads N ROUNDS\n", 2;
    const std::string bundle = arguments[1], mode = arguments[3];
    std::ifstream file(arguments[2]);
    const Request request(json::parse(file));
    std::cout << (mode == "overhead" ? overhead(bundle, request, std::stoi(arguments[4]))
                                     : shared_by_threads(bundle, request, std::stoi(arguments[4]), std::stoi(arguments[5])))
              << std::endl;
} catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
}
