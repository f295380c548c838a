// An opened bundle: everything that scoring reads and nothing that it writes. All threads share it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/log.hpp"
#include "bundle/bundle.hpp"
#include "engine/engine.hpp"
#include "prompt/prompt_builder.hpp"
#include "text/tokenizer.hpp"

namespace vprm::internal {

struct ModelOptions {
    std::string ort_library;              // empty: $VPRM_ORT_LIBRARY, or the usual name
    const OrtApiBase *ort_api = nullptr;  // the host's own ONNX Runtime
    int threads = 0;                      // 0: all cores
    std::size_t max_block_tokens = 512;   // new tokens of one engine call
    std::size_t prefix_cache_bytes = 0;   // 0: keep no prefixes
    Log log;
};

struct Model {
    Bundle bundle;
    Tokenizer tokenizer;
    PromptBuilder prompts;
    Engine engine;
    std::size_t max_block_tokens;
    Log log;
    std::shared_ptr<CacheMeter> cache_meter = std::make_shared<CacheMeter>(0);

    // Throws a bundle, unsupported or engine error.
    Model(Bundle opened, const ModelOptions &options);
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;

    const Manifest &manifest() const { return bundle.manifest; }

    // An empty cache for about so many rows.
    KvCache new_cache(std::size_t capacity_tokens) const { return {manifest(), capacity_tokens, cache_meter}; }

    // Throws an input error if a prompt has more tokens than the model has positions.
    void check_length(std::size_t tokens, const char *what) const;
};

}  // namespace vprm::internal
