// vprm-score BUNDLE --input -    answers rows from stdin on stdout, each at once, as `vprm score BUNDLE --input -` does.
//
// Rows have `question` and `responses`; images are binary PPM files, or such a file's bytes as a data URL
// (data:image/x-portable-pixmap;base64,...): raw RGB pixels after a header of one line, "P6 WIDTH HEIGHT 255". Relative
// paths start at --image-root, or the working directory. --threads N limits CPU threads, --max-tiles N and --max-steps N
// all rows. ONNX Runtime's library is named by --ort or VPRM_ORT_LIBRARY.
#include <algorithm>
#include <charconv>
#include <climits>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>

#include "python_json.hpp"
#include "row.hpp"
#include "row_notes.hpp"
#include "vprm/vprm.hpp"

namespace {

using vprm::tools::Json;
using vprm::tools::Row;
using vprm::tools::RowError;

constexpr int kMostEngineFailures = 8;  // in a row, before the program gives up
constexpr int kNothingScored = 3;       // exit code: rows were read and not one could be scored
constexpr int kMostTiles = 256;
constexpr std::size_t kRowsBeforeSplitting = 10;      // seen before a stream is told that no response has two steps
constexpr std::size_t kMostLineBytes = 1 << 30;

using Limit = std::optional<int>;

// Of a row's limit and that of the command line the smaller; 0 for none. Throws if it is out of range.
int smaller(Limit row, Limit all, const char *name, int most) {
    const Limit limit = row && all ? std::min(*row, *all) : row ? row : all;
    if (limit && (*limit < 1 || *limit > most))
        throw vprm::Error(VPRM_INPUT,
                          std::string(name) + " must be at least 1" +
                              (most < INT_MAX ? " and at most " + std::to_string(most) : "") + ", got " + std::to_string(*limit),
                          "invalid_input");
    return limit.value_or(0);
}

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
    RowScorer(const vprm::Model &model, Limit max_tiles, Limit max_steps)
        : model_(model), max_tiles_(max_tiles), max_steps_(max_steps) {}

    Json score(const Row &row) {
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
        responses.max_steps(smaller(row.max_steps, max_steps_, "max_steps", INT_MAX));
        Json answer = document(session_for(row).score(responses));
        for (const auto &[index, problem] : wrong) answer["results"][index]["error"] = problem;
        return answer;
    }

    void forget() { session_.reset(); }

    bool has_one_step() const { return max_steps_ == 1; }

  private:
    vprm::Session &session_for(const Row &row) {
        const int max_tiles = smaller(row.max_tiles, max_tiles_, "max_tiles", kMostTiles);
        std::vector<vprm::tools::PpmImage> images;
        for (const vprm::tools::RowImage &image : row.images) {
            try {
                images.push_back(vprm::tools::decoded(image));
            } catch (const std::runtime_error &error) {
                throw vprm::Error(VPRM_INPUT, error.what(), "invalid_input");
            }
        }
        if (session_ && images == images_ && row.question == question_ && max_tiles == row_tiles_) return *session_;
        session_.reset();
        images_ = std::move(images);
        question_ = row.question;
        row_tiles_ = max_tiles;
        vprm::Input input(question_);
        for (const auto &image : images_) input.add_rgb8(image.rgb, image.width_px, image.height_px);
        input.max_tiles(row_tiles_);
        session_.emplace(model_.session(input));
        return *session_;
    }

    const vprm::Model &model_;
    const Limit max_tiles_, max_steps_;
    std::optional<vprm::Session> session_;
    std::vector<vprm::tools::PpmImage> images_;
    std::string question_;
    int row_tiles_ = 0;
};

// Reads rows and answers them, each before the next is read.
class Stream {
  public:
    Stream(RowScorer &scorer, std::string image_root) : scorer_(scorer), image_root_(std::move(image_root)) {}

    // The exit code.
    int run() {
        std::string line;
        for (std::size_t number = 1; std::getline(std::cin, line); number++) {
            if (line.size() > kMostLineBytes) throw std::runtime_error("stdin has a line that is longer than any row");
            if (line.find_first_not_of(" \t\r\n\v\f") == std::string::npos) continue;
            const Json answer = answered(line, "line " + std::to_string(number));
            std::cout << vprm::tools::python_json(answer) << std::endl;
            if (++rows_ == kRowsBeforeSplitting) notes_.say_splitting();
            if (failures_ < kMostEngineFailures) continue;
            std::cerr << "error: the engine failed on " << failures_ << " rows in a row: mend the cause and start again\n";
            return 2;
        }
        notes_.say_splitting();
        return rows_ > 0 && usable_ == 0 ? kNothingScored : 0;
    }

  private:
    Json answered(const std::string &line, const std::string &where) {
        Json answer{{"id", rows_}, {"row", rows_}};
        const auto failed = [&](const std::string &error, const std::string &code) {
            answer.update({{"error", error}, {"code", code}});
        };
        Row row;
        try {
            const Json record = vprm::tools::row_json(line);
            answer["id"] = vprm::tools::id_of(record, rows_);
            row = vprm::tools::row_of(record, image_root_);
        } catch (const vprm::tools::LineError &error) {
            failed(where + error.what(), "invalid_input");
        } catch (const RowError &error) {
            failed(where + ": " + error.what(), "invalid_input");
        }
        notes_.add_id(answer["id"], where);
        if (answer.contains("error")) return failures_ = 0, answer;
        notes_.add(row, where);
        try {
            answer.update(scorer_.score(row));
            failures_ = 0;
            usable_ += answer["best"].is_null() ? 0 : 1;
            if (row.max_steps != 1 && !scorer_.has_one_step()) notes_.add_splitting(row.responses, answer["results"]);
        } catch (const vprm::Error &error) {
            failed(error.what(), error.reason());
            const bool is_engine = error.code() == VPRM_ENGINE;
            if (is_engine) scorer_.forget();
            failures_ = is_engine ? failures_ + 1 : 0;
        }
        answer.update(row.labels);
        return answer;
    }

    RowScorer &scorer_;
    const std::string image_root_;
    vprm::tools::RowNotes notes_;
    std::size_t rows_ = 0, usable_ = 0;
    int failures_ = 0;
};

// The number of an option, from 1 on. Throws std::runtime_error if it is none.
Limit number_of(const std::map<std::string, std::string> &options, const char *name) {
    const auto found = options.find(name);
    if (found == options.end()) return std::nullopt;
    int value = 0;
    const char *begin = found->second.data(), *end = begin + found->second.size();
    const auto read = std::from_chars(begin, end, value);
    if (read.ec != std::errc() || read.ptr != end || value < 1)
        throw std::runtime_error(std::string(name) + " must be an integer of at least 1");
    return value;
}

int run(const std::string &bundle, const std::map<std::string, std::string> &options) {
    const Limit max_tiles = number_of(options, "--max-tiles"), max_steps = number_of(options, "--max-steps");
    if (max_tiles > kMostTiles) throw std::runtime_error("--max-tiles must be at most " + std::to_string(kMostTiles));
    const std::string image_root = options.count("--image-root") ? options.at("--image-root") : "";
    if (!image_root.empty() && !std::filesystem::is_directory(image_root))
        throw std::runtime_error("the image root " + image_root + " is not a directory: give the one that image paths start at");
    vprm::ModelOptions model_options;
    if (options.count("--ort")) model_options.ort_library(options.at("--ort"));
    model_options.threads(number_of(options, "--threads").value_or(0));
    const vprm::Model model(bundle, model_options);
    std::cerr << "ready: " << model.description() << std::endl;
    RowScorer scorer(model, max_tiles, max_steps);
    return Stream(scorer, image_root).run();
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
