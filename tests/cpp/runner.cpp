// Answers requests on stdin, a JSON object a line, so that pytest can compare the library with the Python package.
//
// Scoring goes through the public header; token ids, prompts and tiles through the internal ones.
#include <fstream>
#include <iostream>
#include <map>

#include <nlohmann/json.hpp>

#include "base/error.hpp"
#include "base/sha256.hpp"
#include "images/tiling.hpp"
#include "prompt/image_markers.hpp"
#include "prompt/prompt_builder.hpp"
#include "scoring/model.hpp"
#include "vprm/vprm.hpp"

namespace {

using nlohmann::json;
namespace internal = vprm::internal;

struct State {
    std::optional<vprm::Model> model;
    std::optional<internal::Bundle> bundle;
    std::optional<internal::Tokenizer> tokenizer;
    std::map<std::string, vprm::Session> sessions;
};

std::vector<std::uint8_t> file_bytes(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// An input with the pixels that it refers to.
struct OwnedInput {
    std::vector<std::vector<std::uint8_t>> pixels;
    vprm::Input input;
};

OwnedInput input_of(const json &request) {
    OwnedInput made{{}, vprm::Input(request.at("question").get<std::string>())};
    for (const json &image : request.value("images", json::array())) {
        made.pixels.push_back(file_bytes(image.at("file")));
        if (image.contains("tiles"))
            made.input.add_tiles(made.pixels.back().data(), image["tiles"]);
        else
            made.input.add_rgb8(made.pixels.back().data(), image.at("width"), image.at("height"), image.at("stride"));
    }
    made.input.max_tiles(request.value("max_tiles", 0));
    return made;
}

vprm::Responses responses_of(const json &request) {
    vprm::Responses made;
    for (const json &response : request.at("responses"))
        response.is_string() ? made.add(response.get<std::string>()) : made.add_steps(response.get<std::vector<std::string>>());
    made.max_steps(request.value("max_steps", 0));
    made.aggregate(static_cast<vprm_aggregate>(request.value("aggregate", 0)));
    return made;
}

json document(const vprm::Result &result) {
    json candidates = json::array();
    for (const vprm::Candidate &candidate : result.candidates()) {
        json steps = json::array();
        for (const vprm::Step &step : candidate.steps) steps.push_back({{"text", step.text}, {"score", step.score}});
        candidates.push_back({{"score", candidate.score ? json(*candidate.score) : json()},
                              {"steps", steps},
                              {"error", candidate.score ? json() : json(candidate.error)},
                              {"code", candidate.reason}});
    }
    return {{"tiles", result.tiles()}, {"candidates", candidates}, {"best", result.best() ? json(*result.best()) : json()}};
}

json open(State &state, const json &request) {
    vprm::ModelOptions options;
    if (request.contains("ort_library")) options.ort_library(request["ort_library"]);
    options.threads(request.value("threads", 1)).prefix_cache_bytes(request.value("prefix_cache_bytes", 0));
    if (request.contains("max_block_tokens")) options.max_block_tokens(request["max_block_tokens"]);
    state.sessions.clear();
    state.model.emplace(request.at("bundle").get<std::string>(), options);
    return state.model->description();
}

json encode(State &state, const json &request) {
    if (request.contains("tokenizer"))
        state.tokenizer.emplace(internal::read_file(request["tokenizer"].get<std::string>()),
                                request.value("control", std::set<internal::TokenId>()));
    json ids = json::array();
    for (const json &text : request.at("texts")) {
        try {
            ids.push_back(state.tokenizer->encode(text.get_ref<const std::string &>()));
        } catch (const internal::Error &error) {
            ids.push_back(error.what());
        }
    }
    return ids;
}

json prompt(const json &request) {
    const internal::Bundle bundle = internal::Bundle::open(request.at("bundle").get<std::string>());
    const internal::Tokenizer tokenizer(internal::read_file(bundle.tokenizer_path()), {});
    const internal::PromptBuilder builder(tokenizer, bundle.manifest);
    const auto tiles = request.at("tiles").get<std::vector<int>>();
    const auto question = request.at("question").get<std::string>();
    const internal::TokenisedPrompt made = builder.build(question, tiles, request.at("steps"));
    return {{"ids", made.ids}, {"positions", made.score_positions}, {"prefix", builder.prefix(question, tiles)}};
}

json image_marks(const json &request) {
    json marks = json::array();
    for (const json &text : request.at("texts")) {
        const auto mark = internal::foreign_image_mark(text.get_ref<const std::string &>());
        marks.push_back(mark ? json(*mark) : json());
    }
    return marks;
}

json tiles(const json &request) {
    const std::vector<std::uint8_t> pixels = file_bytes(request.at("file"));
    const internal::TilingInfo tiling{request.at("size"), request.value("min_tiles", 1), request.at("max_tiles"),
                                      request.at("thumbnail")};
    json found = json::array();
    for (const json &shape : request.at("shapes")) {  // each a corner of the same pixels
        const int width = shape[0], height = shape[1];
        const std::size_t stride = static_cast<std::size_t>(width) * 3 + (shape.size() > 2 ? shape[2].get<std::size_t>() : 0);
        const internal::Tiles made = internal::tile_image({pixels.data(), width, height, stride}, tiling);
        internal::Sha256 hash;
        hash.add(made.pixels.data(), made.pixels.size());
        found.push_back({made.count, internal::hexadecimal(hash.digest())});
    }
    return found;
}

json grids(const json &request) {
    json found = json::array();
    for (const json &item : request.at("cases")) {
        const internal::TilingInfo tiling{item.at("size"), item.at("min_tiles"), item.at("max_tiles"), true};
        const internal::Grid grid = internal::tile_grid(item.at("width"), item.at("height"), tiling);
        found.push_back({grid.columns, grid.rows});
    }
    return found;
}

json session(State &state, const json &request) {
    const std::string action = request.at("action"), name = request.at("name");
    if (action == "open") {
        const OwnedInput owned = input_of(request);
        state.sessions.insert_or_assign(name, state.model->session(owned.input));
        return state.sessions.at(name).prefix_tokens();
    }
    vprm::Session &session = state.sessions.at(name);
    if (action == "append") return session.append(request.at("step").get<std::string>());
    if (action == "score_next") return document(session.score_next(responses_of(request)));
    if (action == "score") return document(session.score(responses_of(request)));
    if (action == "steps") return session.step_scores();
    if (action == "fork") return state.sessions.insert_or_assign(request.at("as"), session.fork()), json();
    if (action == "rewind") return session.rewind(request.at("steps")), json();
    if (action == "close") return state.sessions.erase(name), json();
    throw std::invalid_argument("unknown action " + action);
}

json answer(State &state, const json &request) {
    const std::string op = request.at("op");
    if (op == "open") return open(state, request);
    if (op == "encode") return encode(state, request);
    if (op == "prompt") return prompt(request);
    if (op == "image_marks") return image_marks(request);
    if (op == "tiles") return tiles(request);
    if (op == "grids") return grids(request);
    if (op == "session") return session(state, request);
    if (op == "verify") return vprm::verify_bundle(request.at("bundle")), json();
    if (op == "kept_bytes") return state.model->prefix_cache_bytes();
    if (op == "score") {
        const OwnedInput owned = input_of(request);
        std::optional<vprm::Cancellation> cancellation;
        if (request.contains("deadline_ms"))
            cancellation.emplace().set_deadline(std::chrono::milliseconds(request["deadline_ms"].get<std::int64_t>()));
        return document(state.model->score(owned.input, responses_of(request), cancellation ? &*cancellation : nullptr));
    }
    throw std::invalid_argument("unknown op " + op);
}

}  // namespace

int main() {
    State state;
    std::string line;
    while (std::getline(std::cin, line)) {
        json reply;
        try {
            reply = {{"value", answer(state, json::parse(line))}};
        } catch (const vprm::Error &error) {
            reply = {{"error", error.what()}, {"code", error.code()}, {"reason", error.reason()}};
        } catch (const internal::Error &error) {
            reply = {{"error", error.what()}, {"code", error.code()}, {"reason", error.reason()}};
        }
        std::cout << reply.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
    }
}
