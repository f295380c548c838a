// Inputs, responses and cancellation.
#include "c_api/handles.hpp"

using namespace vprm::internal;

namespace {

constexpr int kMostTiles = 256;        // far above any trained setting; a guard against typing errors
constexpr int kMostPixelsASide = 1 << 24;

}  // namespace

extern "C" {

vprm_error *vprm_input_new(vprm_input **input) {
    return guarded([&] {
        require(input);
        *input = new vprm_input;
    });
}

void vprm_input_free(vprm_input *input) { delete input; }

vprm_error *vprm_input_set_question(vprm_input *input, const char *text, size_t bytes) {
    return guarded([&] {
        require(input);
        input->input.question = text_argument(text, bytes);
    });
}

vprm_error *vprm_input_add_rgb8(vprm_input *input, const uint8_t *pixels, int width_px, int height_px,
                                size_t stride_bytes) {
    return guarded([&] {
        require(input, pixels);
        if (width_px < 1 || height_px < 1 || width_px > kMostPixelsASide || height_px > kMostPixelsASide)
            throw input_error("the image has no area, or too much (" + std::to_string(width_px) + " x " +
                              std::to_string(height_px) + " pixels)");
        if (stride_bytes < static_cast<size_t>(width_px) * 3)
            throw input_error("stride_bytes is " + std::to_string(stride_bytes) + ", a row of " +
                              std::to_string(width_px) + " pixels has " + std::to_string(3L * width_px) + " bytes");
        if (stride_bytes > PTRDIFF_MAX / static_cast<size_t>(height_px))
            throw input_error("stride_bytes is " + std::to_string(stride_bytes) + ", too many for " +
                              std::to_string(height_px) + " rows: the rows follow one another downwards in memory");
        input->input.images.emplace_back(PixelView{pixels, width_px, height_px, stride_bytes});
    });
}

vprm_error *vprm_input_add_tiles(vprm_input *input, const uint8_t *tiles, int count) {
    return guarded([&] {
        require(input, tiles);
        if (count < 1 || count > kMostTiles + 1)
            throw input_error("an image has 1 to " + std::to_string(kMostTiles + 1) + " tiles, got " + std::to_string(count));
        input->input.images.emplace_back(TileView{tiles, count});
    });
}

vprm_error *vprm_input_set_max_tiles(vprm_input *input, int max_tiles) {
    return guarded([&] {
        require(input);
        if (max_tiles < 0 || max_tiles > kMostTiles)
            throw input_error("max_tiles must be between 1 and " + std::to_string(kMostTiles) + ", or 0 for the bundle's; got " +
                              std::to_string(max_tiles));
        input->input.max_tiles = max_tiles;
    });
}

vprm_error *vprm_responses_new(vprm_responses **responses) {
    return guarded([&] {
        require(responses);
        *responses = new vprm_responses;
    });
}

void vprm_responses_free(vprm_responses *responses) { delete responses; }

vprm_error *vprm_responses_add_text(vprm_responses *responses, const char *text, size_t bytes) {
    return guarded([&] {
        require(responses);
        responses->responses.emplace_back(text_argument(text, bytes));
    });
}

vprm_error *vprm_responses_add_steps(vprm_responses *responses) {
    return guarded([&] {
        require(responses);
        responses->responses.emplace_back(std::vector<std::string>());
    });
}

vprm_error *vprm_responses_add_step(vprm_responses *responses, const char *text, size_t bytes) {
    return guarded([&] {
        require(responses);
        auto *steps = responses->responses.empty() ? nullptr
                                                   : std::get_if<std::vector<std::string>>(&responses->responses.back());
        if (steps == nullptr) throw input_error("call vprm_responses_add_steps() before vprm_responses_add_step()");
        steps->push_back(text_argument(text, bytes));
    });
}

vprm_error *vprm_responses_set_max_steps(vprm_responses *responses, int max_steps) {
    return guarded([&] {
        require(responses);
        if (max_steps < 0)
            throw input_error("max_steps must be at least 1, or 0 for no limit; got " + std::to_string(max_steps));
        responses->options.max_steps = max_steps;
    });
}

vprm_error *vprm_responses_set_aggregate(vprm_responses *responses, vprm_aggregate aggregate) {
    return guarded([&] {
        require(responses);
        if (aggregate < VPRM_MEAN || aggregate > VPRM_MAX)
            throw input_error("unknown aggregate " + std::to_string(static_cast<int>(aggregate)));
        responses->options.aggregate = static_cast<Aggregate>(aggregate);
    });
}

vprm_error *vprm_cancel_new(vprm_cancel **cancel) {
    return guarded([&] {
        require(cancel);
        *cancel = new vprm_cancel;
    });
}

void vprm_cancel_free(vprm_cancel *cancel) { delete cancel; }

void vprm_cancel_now(vprm_cancel *cancel) {
    if (cancel != nullptr) cancel->cancellation.cancel();
}

void vprm_cancel_set_deadline_ms(vprm_cancel *cancel, int64_t from_now) {
    if (cancel != nullptr) cancel->cancellation.set_deadline_ms(from_now);
}

}  // extern "C"
