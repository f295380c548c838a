#include "bundle/manifest.hpp"

#include <algorithm>
#include <limits>

#include "base/error.hpp"
#include "base/utf8.hpp"
#include "bundle/json_fields.hpp"

namespace vprm::internal {

namespace {

constexpr char kName[] = "manifest.json";
constexpr std::int64_t kSchemaVersion = 1;
constexpr std::int64_t kMostTokens = std::numeric_limits<TokenId>::max();
constexpr std::int64_t kMostDimension = 1 << 24;  // far above any model: products of two stay within 64 bits
constexpr std::int64_t kMostTilePixels = 1 << 14;
constexpr std::int64_t kMostTiles = 256;

ModelInfo read_model(JsonFields fields) {
    ModelInfo model;
    model.name = fields.text("name");
    fields.one_of("llm_family", {"internlm2", "llama", "qwen2"});
    model.layers = fields.integer("layers", 1, kMostDimension);
    model.hidden_size = fields.integer("hidden_size", 1, kMostDimension);
    model.kv_heads = fields.integer("kv_heads", 1, kMostDimension);
    model.head_dim = fields.integer("head_dim", 1, kMostDimension);
    model.max_positions_tokens = fields.integer("max_positions_tokens", 1, kMostTokens);
    model.tokens_per_tile = fields.integer("tokens_per_tile", 1, kMostDimension);
    fields.finish();
    return model;
}

ControlTokens read_tokens(JsonFields fields) {
    const auto id = [&](const char *key) { return static_cast<TokenId>(fields.integer(key, 0, kMostTokens)); };
    ControlTokens tokens{};
    if (const auto bos = fields.integer_or_null("bos", 0, kMostTokens)) tokens.bos = static_cast<TokenId>(*bos);
    tokens.im_start = id("im_start");
    tokens.im_end = id("im_end");
    tokens.img_start = id("img_start");
    tokens.img_end = id("img_end");
    tokens.img_context = id("img_context");
    fields.finish();
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
    for (const Json &item : fields.list("candidates")) {
        JsonFields candidate(item, where + ": candidates");
        candidate.text("text");
        const auto id = static_cast<TokenId>(candidate.integer("id", 0, kMostTokens));
        rule.candidates.push_back({id, candidate.number("weight")});
        candidate.finish();
    }
    const bool has_marker = fields.text_or_null("marker").has_value();
    if (const auto id = fields.integer_or_null("marker_id", 0, kMostTokens)) rule.marker_id = static_cast<TokenId>(*id);
    fields.finish();
    const std::string step = "{step}";
    if (rule.candidates.size() < 2) throw bundle_error(where + ": candidates needs at least two tokens");
    if (rule.step_joiner.empty()) throw bundle_error(where + ": step_joiner is empty");
    if (has_marker != rule.marker_id.has_value())
        throw bundle_error(where + ": marker and marker_id must be given together");
    if (occurrences(rule.first_turn, "{question}") != 1 || rule.first_turn.size() < step.size() ||
        rule.first_turn.compare(rule.first_turn.size() - step.size(), step.size(), step) != 0)
        throw bundle_error(where + ": first_turn needs {question} once and must end with {step}");
    return rule;
}

TilingInfo read_tiling(JsonFields fields) {
    TilingInfo tiling{};
    tiling.tile_size_px = static_cast<int>(fields.integer("tile_size_px", 1, kMostTilePixels));
    tiling.min_tiles = static_cast<int>(fields.integer("min_tiles", 1, kMostTiles));
    tiling.max_tiles = static_cast<int>(fields.integer("max_tiles", tiling.min_tiles, kMostTiles));
    tiling.use_thumbnail = fields.boolean("use_thumbnail");
    fields.finish();
    return tiling;
}

GraphInfo read_graph(JsonFields fields) {
    GraphInfo graph;
    graph.file = fields.text("file");
    graph.precision = fields.one_of("precision", {"fp32", "fp16", "int8", "w8", "w4", "fp8"});
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
    std::map<std::string, FileInfo> found;
    for (const auto &item : files.items()) {
        JsonFields fields(item.value(), where + ": " + excerpt(item.key()));
        FileInfo info;
        info.size_bytes = static_cast<std::uint64_t>(fields.integer("size_bytes", 0));
        info.sha256 = fields.text("sha256");
        fields.finish();
        found.emplace(item.key(), std::move(info));
    }
    return found;
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
    if (valid_utf8_prefix(text) != text.size())
        throw bundle_error(std::string(kName) + " is not UTF-8 text: export the bundle again");
    Json document;
    try {
        document = Json::parse(text);
    } catch (const Json::exception &error) {
        throw bundle_error(std::string(kName) + " is not JSON (" + excerpt(error.what()) + "): export the bundle again");
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
    fields.finish();
    return manifest;
}

}  // namespace vprm::internal
