// vprm-score BUNDLE --input -    answers rows from stdin on stdout, each at once, as `vprm score BUNDLE --input -` does.
//
// Images are binary PPM files, or such a file's bytes as a data URL (data:image/x-portable-pixmap;base64,...): raw RGB
// pixels after a header of one line, "P6 WIDTH HEIGHT 255". Relative paths start at --image-root, or the working
// directory. --threads N limits CPU threads, --max-tiles N and --max-steps N all rows. ONNX Runtime's library is named by
// --ort or VPRM_ORT_LIBRARY.
#include <algorithm>
#include <iostream>
#include <map>
#include <optional>

#include "bundle/strict_json.hpp"
#include "python_json.hpp"
#include "row.hpp"
#include "vprm/vprm.hpp"

namespace {

using vprm::tools::Json;
using vprm::tools::Row;
using vprm::tools::RowError;

constexpr int kMostEngineFailures = 8;  // in a row, before the program gives up
constexpr int kMostDepth = 64;          // of nested lists and objects in a row
constexpr int kNothingScored = 3;       // exit code: rows were read and not one could be scored

int smaller(int first, int second) { return first == 0 || second == 0 ? std::max(first, second) : std::min(first, second); }

Json document(const vprm::Result &result) {
    Json results = Json::array();
    for (std::size_t index = 0; index < result.candidates().size(); index++) {
        const vprm::Candidate &candidate = result.candidates()[index];
        Json steps = Json::array();
        for (const vprm::Step &step : candidate.steps) steps.push_back({{"text", step.text}, {"score", step.score}});
        Json entry{{"index", index}, {"score", candidate.score ? Json(*candidate.score) : Json()}, {"steps", steps}};
        entry["error"] = candidate.score ? Json() : Json(candidate.error);
        if (!candidate.score) entry["code"] = candidate.reason;
        results.push_back(std::move(entry));
    }
    return {{"tiles", result.tiles()}, {"results", results}, {"best", result.best() ? Json(*result.best()) : Json()}};
}

// Scores rows; neighbours with the same images and question share a session.
class RowScorer {
  public:
    RowScorer(const vprm::Model &model, int max_tiles, int max_steps)
        : model_(model), max_tiles_(max_tiles), max_steps_(max_steps) {}

    Json score(Row row) {
        vprm::Responses responses;
        std::map<std::size_t, std::string> wrong;  // a response of another type has its error beside the others' scores
        for (std::size_t index = 0; index < row.responses.size(); index++) {
            const Json &response = row.responses[index];
            if (const std::string problem = vprm::tools::problem_of(response); !problem.empty())
                wrong[index] = problem;
            if (response.is_string())
                responses.add(response.get<std::string>());
            else
                responses.add_steps(wrong.count(index) ? std::vector<std::string>() : response.get<std::vector<std::string>>());
        }
        responses.max_steps(smaller(row.max_steps, max_steps_));
        row.max_tiles = smaller(row.max_tiles, max_tiles_);
        Json answer = document(session_for(row).score(responses));
        for (const auto &[index, problem] : wrong) answer["results"][index]["error"] = problem;
        return answer;
    }

    void forget() { session_.reset(); }

  private:
    vprm::Session &session_for(Row &row) {
        const bool is_same = session_ && row.images == images_ && row.question == question_ && row.max_tiles == row_tiles_;
        if (is_same) return *session_;
        session_.reset();
        images_ = std::move(row.images);
        question_ = row.question;
        row_tiles_ = row.max_tiles;
        vprm::Input input(question_);
        for (const auto &image : images_) input.add_rgb8(image.rgb, image.width_px, image.height_px);
        input.max_tiles(row_tiles_);
        session_.emplace(model_.session(input));
        return *session_;
    }

    const vprm::Model &model_;
    const int max_tiles_, max_steps_;
    std::optional<vprm::Session> session_;
    std::vector<vprm::tools::PpmImage> images_;
    std::string question_;
    int row_tiles_ = 0;
};

int run(const std::string &bundle, const std::map<std::string, std::string> &options) {
    const auto number = [&](const char *name) { return options.count(name) ? std::stoi(options.at(name)) : 0; };
    vprm::ModelOptions model_options;
    if (options.count("--ort")) model_options.ort_library(options.at("--ort"));
    model_options.threads(number("--threads"));
    const vprm::Model model(bundle, model_options);
    std::cerr << "ready: " << model.description() << std::endl;
    RowScorer scorer(model, number("--max-tiles"), number("--max-steps"));
    const std::string image_root = options.count("--image-root") ? options.at("--image-root") : "";
    std::size_t rows = 0, usable = 0;
    int failures = 0;
    std::string line;
    for (std::size_t line_number = 1; std::getline(std::cin, line); line_number++) {
        if (line.find_first_not_of(" \t\r\n\v\f") == std::string::npos) continue;
        const std::size_t row_number = rows++;
        const std::string where = "line " + std::to_string(line_number);
        Json answer{{"id", row_number}, {"row", row_number}};
        const auto failed = [&](const std::string &error, const std::string &code) {
            answer.update({{"error", error}, {"code", code}});
        };
        try {
            const Json record = vprm::internal::strict_json<Json>(line, kMostDepth);
            answer["id"] = vprm::tools::id_of(record, row_number);
            Row row = vprm::tools::row_of(record, image_root);
            const Json labels = row.labels;
            answer.update(scorer.score(std::move(row)));
            answer.update(labels);
            failures = 0;
            usable += answer["best"].is_null() ? 0 : 1;
        } catch (const vprm::internal::JsonError &error) {
            failed(where + " is not JSON (" + error.what() + "): write one object for each line", "invalid_input");
        } catch (const RowError &error) {
            failed(where + ": " + error.what(), "invalid_input");
        } catch (const vprm::Error &error) {
            failed(error.what(), error.reason());
            if (error.code() == VPRM_ENGINE) {
                scorer.forget();
                failures++;
            }
        }
        std::cout << vprm::tools::python_json(answer) << std::endl;
        if (failures == kMostEngineFailures) {
            std::cerr << "error: the engine failed on " << failures << " rows in a row: mend the cause and start again\n";
            return 2;
        }
    }
    return rows > 0 && usable == 0 ? kNothingScored : 0;
}

}  // namespace

int main(int count, char **arguments) {
    constexpr char kUsage[] = "usage: vprm-score BUNDLE --input - [--image-root DIR] [--ort LIBRARY] [--threads N] "
                              "[--max-tiles N] [--max-steps N]\n";
    std::string bundle;
    std::map<std::string, std::string> options;
    for (int i = 1; i < count; i++) {
        const std::string argument = arguments[i];
        const bool is_option = argument.rfind("--", 0) == 0;
        const bool is_known = argument == "--input" || argument == "--image-root" || argument == "--ort" ||
                              argument == "--threads" || argument == "--max-tiles" || argument == "--max-steps";
        if ((is_option && (!is_known || i + 1 == count)) || (!is_option && !bundle.empty())) return std::cerr << kUsage, 2;
        if (is_option)
            options[argument] = arguments[++i];
        else
            bundle = argument;
    }
    if (bundle.empty() || options["--input"] != "-") return std::cerr << kUsage, 2;
    try {
        return run(bundle, options);
    } catch (const std::exception &error) {
        std::cerr << "error: " << error.what() << "\n";
        return 2;
    }
}
