// Bicubic resizing of 8-bit RGB, bit for bit Pillow's, in the order that defines a tile: horizontal pass first.
//
// Source: python-pillow/Pillow, src/libImaging/Resample.c (8 bits per channel, BICUBIC): weights of an antialiasing
// filter as fixed-point numbers, rounded to 8 bits after each pass. Pillow from version 13 on chooses the order of the
// passes itself; the runtime asks it for one direction at a time, and so does this.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vprm::internal {

// RGB8 rows that somebody else owns.
struct PixelView {
    const std::uint8_t *pixels;
    int width_px, height_px;
    std::size_t stride_bytes;

    const std::uint8_t *row(int y) const { return pixels + static_cast<std::size_t>(y) * stride_bytes; }
};

struct Pixels {
    int width_px = 0, height_px = 0;
    std::vector<std::uint8_t> bytes;

    PixelView view() const { return {bytes.data(), width_px, height_px, static_cast<std::size_t>(width_px) * 3}; }
};

Pixels resized(const PixelView &image, int width_px, int height_px);

}  // namespace vprm::internal
