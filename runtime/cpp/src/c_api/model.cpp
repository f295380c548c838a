#include "c_api/handles.hpp"

using namespace vprm::internal;

extern "C" {

vprm_error *vprm_model_options_new(vprm_model_options **options) {
    return guarded([&] {
        require(options);
        *options = new vprm_model_options;
    });
}

void vprm_model_options_free(vprm_model_options *options) { delete options; }

vprm_error *vprm_model_options_set_ort_library(vprm_model_options *options, const char *path) {
    return guarded([&] {
        require(options, path);
        options->options.ort_library = path;
    });
}

vprm_error *vprm_model_options_set_ort_api(vprm_model_options *options, const void *ort_api_base) {
    return guarded([&] {
        require(options, ort_api_base);
        options->options.ort_api = static_cast<const OrtApiBase *>(ort_api_base);
    });
}

vprm_error *vprm_model_options_set_threads(vprm_model_options *options, int threads) {
    return guarded([&] {
        require(options);
        if (threads < 0) throw input_error("threads must not be negative, got " + std::to_string(threads));
        options->options.threads = threads;
    });
}

vprm_error *vprm_model_options_set_max_block_tokens(vprm_model_options *options, size_t tokens) {
    return guarded([&] {
        require(options);
        if (tokens < 1) throw input_error("max_block_tokens must be at least 1");
        options->options.max_block_tokens = tokens;
    });
}

vprm_error *vprm_model_options_set_prefix_cache_bytes(vprm_model_options *options, size_t bytes) {
    return guarded([&] {
        require(options);
        options->options.prefix_cache_bytes = bytes;
    });
}

vprm_error *vprm_model_options_set_log(vprm_model_options *options, vprm_log_callback callback, void *context) {
    return guarded([&] {
        require(options);
        options->options.log = {callback, context};
    });
}

vprm_error *vprm_model_open(const char *bundle, const vprm_model_options *options, vprm_model **model) {
    return guarded([&] {
        require(bundle, model);
        const ModelOptions chosen = options != nullptr ? options->options : ModelOptions{};
        auto opened = std::make_shared<const Model>(Bundle::open(bundle), chosen);
        auto pool = std::make_shared<PrefixPool>(chosen.prefix_cache_bytes, opened->cache_meter);
        std::string description = opened->engine.description();
        *model = new vprm_model{std::move(opened), std::move(pool), std::move(description)};
    });
}

void vprm_model_free(vprm_model *model) { delete model; }

const char *vprm_model_description(const vprm_model *model) { return model != nullptr ? model->description.c_str() : ""; }

int vprm_model_tile_size(const vprm_model *model) {
    return model != nullptr ? model->model->manifest().tiling.tile_size_px : 0;
}

size_t vprm_model_prefix_cache_bytes(const vprm_model *model) {
    return model != nullptr ? model->pool->size_bytes() : 0;
}

vprm_error *vprm_bundle_verify(const char *bundle) {
    return guarded([&] {
        require(bundle);
        Bundle::open(bundle).verify();
    });
}

}  // extern "C"
