#include "engine/engine.hpp"

#include <cstring>
#include <set>

#include "engine/native.hpp"
#include "base/error.hpp"
#include "engine/half.hpp"

namespace vprm::internal {

namespace {

ElementType element_type(FloatType type) {
    return type == FloatType::kFloat32 ? ElementType::kFloat32 : ElementType::kFloat16;
}

template <typename From, typename To>
void converted(const std::vector<std::byte> &from, std::byte *to, std::size_t count, To (*convert)(From)) {
    for (std::size_t i = 0; i < count; i++) {
        From value;
        std::memcpy(&value, from.data() + i * sizeof value, sizeof value);
        const To result = convert(value);
        std::memcpy(to + i * sizeof result, &result, sizeof result);
    }
}

void check_names(const std::string &file, const std::set<std::string> &expected, const OrtGraph &graph) {
    const std::vector<std::string> names = graph.tensors();
    const std::set<std::string> found(names.begin(), names.end());
    std::string different;
    for (const std::string &name : expected)
        if (found.count(name) == 0) different = name;
    for (const std::string &name : found)
        if (expected.count(name) == 0) different = name;
    if (!different.empty())
        throw bundle_error(excerpt(file) + " and manifest.json do not belong together: \"" + excerpt(different) +
                           "\" is in one of them only; export the bundle again");
}

}  // namespace

Engine::Engine(std::shared_ptr<OrtLibrary> library, const Bundle &bundle, int threads, const Log &log)
    : manifest_(bundle.manifest), library_(std::move(library)),
      vision_(library_, bundle.path / manifest_.vision.file, manifest_.vision, threads, log),
      llm_(library_, bundle.path / manifest_.llm.file, manifest_.llm, threads, log) {
    for (std::int64_t layer = 0; layer < manifest_.model.layers; layer++)
        for (const char *part : {"key", "value"}) {
            past_names_.push_back("past." + std::to_string(layer) + "." + part);
            new_names_.push_back("new." + std::to_string(layer) + "." + part);
        }
    check_tensors();
}

void Engine::check_tensors() const {
    check_names(manifest_.vision.file, {"tiles", "image_embeds"}, vision_);
    std::set<std::string> names{"input_ids",      "image_embeds",    "position_ids",
                                "attention_mask", "score_positions", "step_logits"};
    names.insert(past_names_.begin(), past_names_.end());
    names.insert(new_names_.begin(), new_names_.end());
    check_names(manifest_.llm.file, names, llm_);
}

std::string Engine::description() const {
    const std::string library = "ONNX Runtime " + library_->version();
    const auto with_level = [&](const GraphInfo &graph) {
        return graph.is_native() ? library + " with native operators at " + native_description() : library;
    };
    const std::string vision = with_level(manifest_.vision), llm = with_level(manifest_.llm);
    if (vision == llm)
        return llm + ", CPU, vision " + manifest_.vision.precision + ", LLM " + manifest_.llm.precision;
    return "vision " + manifest_.vision.precision + " in " + vision + ", LLM " + manifest_.llm.precision + " in " + llm +
           ", CPU";
}

void Engine::encode_tile(const std::uint8_t *tile, Embeds &embeds) const {
    const std::int64_t size = manifest_.tiling.tile_size_px, hidden = manifest_.model.hidden_size;
    const auto rows = static_cast<std::size_t>(manifest_.model.tokens_per_tile);
    const auto elements = rows * static_cast<std::size_t>(hidden);
    std::vector<std::byte> encoded(elements * float_bytes(manifest_.vision.io_type));
    vision_.run({{"tiles", tile, ElementType::kUint8, {1, size, size, 3}}},
                {{"image_embeds", encoded.data(), element_type(manifest_.vision.io_type), {manifest_.model.tokens_per_tile, hidden}}});
    embeds.row_bytes = static_cast<std::size_t>(hidden) * float_bytes(manifest_.llm.io_type);
    const std::size_t start = embeds.count * embeds.row_bytes;
    embeds.count += rows;
    embeds.bytes.resize(embeds.count * embeds.row_bytes);
    std::byte *to = embeds.bytes.data() + start;
    if (manifest_.vision.io_type == manifest_.llm.io_type)
        std::memcpy(to, encoded.data(), encoded.size());
    else if (manifest_.llm.io_type == FloatType::kFloat32)
        converted(encoded, to, elements, float_from_half);
    else
        converted(encoded, to, elements, half_from_float);
}

std::vector<float> Engine::forward(const Block &block, KvCache &cache) const {
    const std::size_t fresh = block.input_ids.size(), past = cache.length_tokens();
    cache.reserve(fresh);
    static const std::int64_t kFirstRow = 0;  // the graph wants at least one score position
    const bool has_scores = !block.score_positions.empty();
    const auto scored = static_cast<std::int64_t>(has_scores ? block.score_positions.size() : 1);
    const auto candidates = static_cast<std::int64_t>(manifest_.score_rule.candidates.size());
    std::vector<float> logits(static_cast<std::size_t>(scored * candidates));
    const auto S = static_cast<std::int64_t>(fresh), P = static_cast<std::int64_t>(past);
    const ElementType type = element_type(manifest_.llm.io_type);
    const std::int64_t width = manifest_.model.kv_width();
    std::vector<Tensor> inputs{
        {"input_ids", block.input_ids.data(), ElementType::kInt64, {S}},
        {"image_embeds", block.image_embeds.data, type, {static_cast<std::int64_t>(block.image_embeds.count), manifest_.model.hidden_size}},
        {"position_ids", block.position_ids.data(), ElementType::kInt64, {S}},
        {"attention_mask", block.attention_mask.data(), ElementType::kBool, {S, P + S}},
        {"score_positions", has_scores ? block.score_positions.data() : &kFirstRow, ElementType::kInt64, {scored}},
    };
    std::vector<Tensor> outputs{{"step_logits", logits.data(), ElementType::kFloat32, {scored, candidates}}};
    for (std::size_t i = 0; i < past_names_.size(); i++) {
        inputs.push_back({past_names_[i].c_str(), cache.row(i / 2, i % 2, 0), type, {P, width}});
        outputs.push_back({new_names_[i].c_str(), cache.row(i / 2, i % 2, past), type, {S, width}});
    }
    llm_.run(inputs, outputs);
    cache.advance(fresh);
    if (!has_scores) logits.clear();
    return logits;
}

}  // namespace vprm::internal
