// `manifest.json` of a bundle: what the library needs of it, read strictly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vprm::internal {

using TokenId = std::int32_t;

enum class FloatType { kFloat32, kFloat16 };

inline std::size_t float_bytes(FloatType type) { return type == FloatType::kFloat32 ? 4 : 2; }

struct ModelInfo {
    std::string name;
    std::int64_t layers, hidden_size, kv_heads, head_dim, max_positions_tokens, tokens_per_tile;

    std::int64_t kv_width() const { return kv_heads * head_dim; }
};

// Ids that only the prompt builder may emit; user text never becomes one of them.
struct ControlTokens {
    std::optional<TokenId> bos;
    TokenId im_start, im_end, img_start, img_end, img_context;
};

struct CandidateToken {
    TokenId id;
    double weight;
};

// How to ask, and where to read the answer: see the Python package's `score_rule.py`.
struct ScoreRule {
    std::string first_turn;  // has {question}, may have {images}, ends with {step}
    std::string step_joiner;
    std::string reply;
    std::vector<CandidateToken> candidates;
    std::optional<TokenId> marker_id;
};

struct TilingInfo {
    int tile_size_px, min_tiles, max_tiles;
    bool use_thumbnail;

    // The same with at most `most` tiles beside the thumbnail; 0 changes nothing.
    TilingInfo limited(int most) const;
};

struct GraphInfo {
    std::string file, precision;
    FloatType io_type;
    std::string target;  // of a quantised graph, else empty

    bool is_native() const { return target == "cpu-native"; }
};

struct FileInfo {
    std::uint64_t size_bytes;
    std::string sha256;
};

struct Manifest {
    ModelInfo model;
    ControlTokens tokens;
    std::string system_message;
    ScoreRule score_rule;
    TilingInfo tiling;
    GraphInfo vision, llm;
    std::map<std::string, FileInfo> files;

    // Checks keys, types and ranges. Throws a bundle error naming the key that is wrong.
    static Manifest from_json(std::string_view text);
};

// Throws a bundle error unless a manifest's bytes are those that were written: its last key is the SHA-256 of its text
// with zeros in place of that hash.
void check_manifest_hash(std::string_view text);

}  // namespace vprm::internal
