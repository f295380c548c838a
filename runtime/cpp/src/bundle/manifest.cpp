#include "bundle/manifest.hpp"

#include <algorithm>
#include <limits>
#include <set>

#include "base/error.hpp"
#include "base/sha256.hpp"
#include "bundle/json_fields.hpp"
#include "bundle/strict_json.hpp"

namespace vprm::internal {

namespace {

constexpr char kName[] = "manifest.json";
constexpr std::int64_t kSchemaVersion = 1;
// Ranges are those of the Python package's `limits.py`: far above any model, so that a damaged value cannot hang or
// exhaust memory.
constexpr std::int64_t kMostId = std::numeric_limits<TokenId>::max();
constexpr std::int64_t kMostWidth = 1 << 17;
constexpr std::int64_t kMostTilePixels = 1 << 11;
constexpr std::int64_t kMostTiles = 256;
constexpr std::int64_t kMostFileBytes = std::int64_t{1} << 50;
constexpr std::size_t kMostFiles = 100'000, kMostCandidates = 64, kMostNameBytes = 200;
constexpr std::size_t kHashDigits = 64;
constexpr std::string_view kHashKey = "\"manifest_sha256\": \"";

[[noreturn]] void refuse(const std::string &key, const std::string &value, const std::string &expected) {
    throw bundle_error(std::string(kName) + ": " + key + " is " + excerpt(value) + ", expected " + expected +
                       ": the bundle is damaged or was not made by vprm export; export it again");
}

bool is_sha256(const std::string &text) {
    return text.size() == kHashDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Whether a name is that of a file in the bundle's folder itself, on every system.
bool is_plain_name(const std::string &name) {
    const auto is_odd = [](char byte) {
        return static_cast<unsigned char>(byte) < 0x20 || byte == 0x7F || byte == '/' || byte == '\\' || byte == ':';
    };
    return !name.empty() && name.size() <= kMostNameBytes && std::none_of(name.begin(), name.end(), is_odd) &&
           name.front() != '.' && name.back() != '.' && name.back() != ' ';
}

ModelInfo read_model(JsonFields fields) {
    ModelInfo model;
    model.name = fields.text("name");
    fields.one_of("llm_family", {"internlm2", "llama", "qwen2"});
    model.layers = fields.integer("layers", 1, 1 << 10);
    model.hidden_size = fields.integer("hidden_size", 1, kMostWidth);
    model.kv_heads = fields.integer("kv_heads", 1, 1 << 10);
    model.head_dim = fields.integer("head_dim", 1, 1 << 12);
    model.max_positions_tokens = fields.integer("max_positions_tokens", 1, 1 << 27);
    model.tokens_per_tile = fields.integer("tokens_per_tile", 1, 1 << 16);
    fields.finish();
    if (model.kv_width() > kMostWidth)
        refuse("model: kv_heads * head_dim", std::to_string(model.kv_width()), "1 to " + std::to_string(kMostWidth));
    return model;
}

ControlTokens read_tokens(JsonFields fields) {
    const auto id = [&](const char *key) { return static_cast<TokenId>(fields.integer(key, 0, kMostId)); };
    ControlTokens tokens{};
    if (const auto bos = fields.integer_or_null("bos", 0, kMostId)) tokens.bos = static_cast<TokenId>(*bos);
    tokens.im_start = id("im_start");
    tokens.im_end = id("im_end");
    tokens.img_start = id("img_start");
    tokens.img_end = id("img_end");
    tokens.img_context = id("img_context");
    fields.finish();
    const std::set<TokenId> ids{tokens.im_start, tokens.im_end, tokens.img_start, tokens.img_end, tokens.img_context};
    if (ids.size() < 5) refuse("tokens", "an id that two of them share", "five different ids");
    return tokens;
}

std::size_t occurrences(const std::string &text, const std::string &part) {
    std::size_t count = 0;
    for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) count++;
    return count;
}

ScoreRule read_score_rule(JsonFields fields) {
    ScoreRule rule;
    fields.text("name");
    rule.first_turn = fields.text("first_turn");
    rule.step_joiner = fields.text("step_joiner");
    rule.reply = fields.text("reply");
    const std::string where = fields.where();
    std::set<TokenId> ids;
    for (const Json &item : fields.list("candidates")) {
        JsonFields candidate(item, where + ": candidates");
        candidate.text("text");
        const auto id = static_cast<TokenId>(candidate.integer("id", 0, kMostId));
        rule.candidates.push_back({id, candidate.number("weight")});
        ids.insert(id);
        const double weight = rule.candidates.back().weight;
        if (!(weight >= 0 && weight <= 1)) refuse("score_rule: candidates: weight", std::to_string(weight), "a number from 0 to 1");
        candidate.finish();
    }
    const bool has_marker = fields.text_or_null("marker").has_value();
    if (const auto id = fields.integer_or_null("marker_id", 0, kMostId)) rule.marker_id = static_cast<TokenId>(*id);
    fields.finish();
    const std::string &turn = rule.first_turn, step = "{step}";
    const bool ends_with_step = turn.size() >= step.size() && turn.compare(turn.size() - step.size(), step.size(), step) == 0;
    if (occurrences(turn, "{question}") != 1 || occurrences(turn, "{images}") > 1 || occurrences(turn, step) != 1 ||
        !ends_with_step)
        refuse("score_rule: first_turn", turn, "a text with one {question}, at most one {images}, and {step} at its end");
    if (rule.step_joiner.empty()) refuse("score_rule: step_joiner", "empty", "a text that splits a response");
    if (rule.candidates.size() < 2 || rule.candidates.size() > kMostCandidates || ids.size() < rule.candidates.size())
        refuse("score_rule: candidates", std::to_string(rule.candidates.size()) + " tokens", "2 to 64 different ids");
    if (has_marker != rule.marker_id.has_value()) refuse("score_rule: marker_id", "odd", "an id exactly if there is a marker");
    return rule;
}

TilingInfo read_tiling(JsonFields fields) {
    TilingInfo tiling{};
    tiling.tile_size_px = static_cast<int>(fields.integer("tile_size_px", 1, kMostTilePixels));
    tiling.max_tiles = static_cast<int>(fields.integer("max_tiles", 1, kMostTiles));
    tiling.min_tiles = static_cast<int>(fields.integer("min_tiles", 1, tiling.max_tiles));
    tiling.use_thumbnail = fields.boolean("use_thumbnail");
    fields.finish();
    return tiling;
}

GraphInfo read_graph(JsonFields fields) {
    GraphInfo graph;
    graph.file = fields.text("file");
    graph.precision = fields.one_of("precision", {"fp32", "fp16", "bf16", "int8", "w8", "w4", "fp8"});
    const bool is_float32 = fields.one_of("io_dtype", {"float32", "float16"}) == "float32";
    graph.io_type = is_float32 ? FloatType::kFloat32 : FloatType::kFloat16;
    if (!fields.any("quantisation").is_null()) {
        JsonFields quantisation = fields.object("quantisation");
        graph.target = quantisation.one_of("target", {"cpu", "cpu-native", "tensorrt"});
        quantisation.text("linears");
        quantisation.text_or_null("calibration_sha256");
        quantisation.list("kept_high");
        quantisation.finish();
    }
    fields.finish();
    return graph;
}

std::map<std::string, FileInfo> read_files(const Json &files, const std::string &where) {
    if (!files.is_object()) throw bundle_error(where + " should be an object: export the bundle again");
    if (files.size() > kMostFiles) refuse("files", std::to_string(files.size()), "fewer files");
    std::map<std::string, FileInfo> found;
    for (const auto &item : files.items()) {
        if (!is_plain_name(item.key())) refuse("files", item.key(), "plain names, none outside the bundle's folder");
        JsonFields fields(item.value(), where + ": " + excerpt(item.key()));
        FileInfo info;
        info.size_bytes = static_cast<std::uint64_t>(fields.integer("size_bytes", 0, kMostFileBytes));
        info.sha256 = fields.text("sha256");
        if (!is_sha256(info.sha256)) refuse("files: " + item.key() + ": sha256", info.sha256, "64 hexadecimal digits");
        fields.finish();
        found.emplace(item.key(), std::move(info));
    }
    return found;
}

void check_graph_files(const Manifest &manifest) {
    for (const GraphInfo *graph : {&manifest.vision, &manifest.llm})
        if (!is_plain_name(graph->file)) refuse("graphs: file", graph->file, "the plain name of a file in the bundle");
    if (manifest.vision.file == manifest.llm.file)
        refuse("graphs: llm: file", manifest.llm.file, "another file than the vision graph's");
    for (const std::string &name : {std::string("tokenizer.json"), manifest.vision.file, manifest.vision.file + ".data",
                                    manifest.llm.file, manifest.llm.file + ".data"})
        if (manifest.files.count(name) == 0) refuse("files", "without " + name, name + " among them");
}

void check_provenance(JsonFields fields) {
    fields.text("checkpoint");
    fields.text("config_sha256");
    fields.object("tools");
    fields.list("readings");
    fields.finish();
}

}  // namespace

TilingInfo TilingInfo::limited(int most) const {
    if (most == 0) return *this;
    TilingInfo limit = *this;
    limit.min_tiles = std::min(min_tiles, most);
    limit.max_tiles = most;
    return limit;
}

Manifest Manifest::from_json(std::string_view text) {
    Json document;
    try {
        document = strict_json<Json>(text);
    } catch (const JsonError &error) {
        throw bundle_error(std::string(kName) + " is not JSON (" + error.what() +
                           "): copy the bundle again, or export it again");
    }
    JsonFields fields(document, kName);
    const Json &version = fields.any("schema_version");
    if (!version.is_number_integer() || version != kSchemaVersion)
        throw bundle_error(std::string(kName) + " has schema_version " + excerpt(version.dump()) +
                           ", this vprm reads " + std::to_string(kSchemaVersion) +
                           ": export the bundle again with this version");
    Manifest manifest;
    manifest.model = read_model(fields.object("model"));
    manifest.tokens = read_tokens(fields.object("tokens"));
    JsonFields prompt = fields.object("prompt");
    prompt.text("template");
    manifest.system_message = prompt.text("system_message");
    prompt.finish();
    manifest.score_rule = read_score_rule(fields.object("score_rule"));
    manifest.tiling = read_tiling(fields.object("tiling"));
    JsonFields graphs = fields.object("graphs");
    manifest.vision = read_graph(graphs.object("vision"));
    manifest.llm = read_graph(graphs.object("llm"));
    graphs.finish();
    check_provenance(fields.object("provenance"));
    manifest.files = read_files(fields.any("files"), std::string(kName) + ": files");
    if (!is_sha256(fields.text("manifest_sha256")))
        throw bundle_error(std::string(kName) + " has no manifest_sha256: export the bundle again with this version");
    fields.finish();
    check_graph_files(manifest);
    return manifest;
}

void check_manifest_hash(std::string_view text) {
    const auto at = text.rfind(kHashKey);
    const auto start = at == std::string_view::npos ? text.size() : at + kHashKey.size();
    const std::string_view written = text.substr(start, kHashDigits), tail = text.substr(start + written.size());
    Sha256 hash;
    hash.add(text.substr(0, start));
    hash.add(std::string(kHashDigits, '0'));
    hash.add(tail);
    if (written != hexadecimal(hash.digest()))
        throw bundle_error(std::string(kName) + " was changed after it was written (its manifest_sha256 differs): copy the "
                           "bundle again, or export it again");
}

}  // namespace vprm::internal
