#include "scoring/model.hpp"

#include <utility>

#include "base/error.hpp"

namespace vprm::internal {

namespace {

std::set<TokenId> control_ids(const Manifest &manifest) {
    const ControlTokens &tokens = manifest.tokens;
    std::set<TokenId> ids{tokens.im_start, tokens.im_end, tokens.img_start, tokens.img_end, tokens.img_context};
    if (tokens.bos) ids.insert(*tokens.bos);
    if (manifest.score_rule.marker_id) ids.insert(*manifest.score_rule.marker_id);
    return ids;
}

const Bundle &checked(const Bundle &bundle) {
    for (const GraphInfo *graph : {&bundle.manifest.vision, &bundle.manifest.llm})
        if (graph->target == "tensorrt")
            throw unsupported("this bundle was quantised for --target tensorrt: for this library export it with "
                              " --target cpu  or  --target cpu-native");
    return bundle;
}

}  // namespace

Model::Model(Bundle opened, const ModelOptions &options)
    : bundle(std::move(opened)), tokenizer(read_file(checked(bundle).tokenizer_path()), control_ids(bundle.manifest)),
      prompts(tokenizer, bundle.manifest),
      engine(std::make_shared<OrtLibrary>(options.ort_api, options.ort_library), bundle, options.threads, options.log),
      max_block_tokens(options.max_block_tokens), log(options.log) {
    log.write(LogLevel::kInfo, "opened " + bundle.path.string() + ": " + engine.description());
}

void Model::check_length(std::size_t tokens, const char *what) const {
    const auto limit = static_cast<std::size_t>(manifest().model.max_positions_tokens);
    if (tokens > limit)
        throw input_error(std::string(what) + " " + std::to_string(tokens) + " tokens, the model's limit is " +
                              std::to_string(limit) + ": shorten the text or use fewer tiles",
                          "prompt_too_long");
}

}  // namespace vprm::internal
