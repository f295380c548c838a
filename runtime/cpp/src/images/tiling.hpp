// Dynamic tiling: an image becomes a grid of square tiles near its aspect ratio, plus a thumbnail.
//
// Source: OpenGVLab/InternVL @2410d1d, internvl_chat/internvl/train/dataset.py, `dynamic_preprocess`; the same grids and
// pixels as the Python package's `tiling.py`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bundle/manifest.hpp"
#include "images/resize.hpp"

namespace vprm::internal {

struct Grid {
    int columns, rows;
};

// Tiles of one image: RGB8 [count, size, size, 3], row-major, thumbnail last if there are several.
struct Tiles {
    int count = 0;
    std::vector<std::uint8_t> pixels;
};

inline std::size_t tile_bytes(int tile_size_px) {
    return static_cast<std::size_t>(tile_size_px) * static_cast<std::size_t>(tile_size_px) * 3;
}

// The grid closest to the image's aspect ratio. Throws an unsupported error if two grids of equal area are equally
// close, which needs min_tiles > 1: the original then goes by the order of a hash table.
Grid tile_grid(int width_px, int height_px, const TilingInfo &tiling);

// Throws an input error on an image without area.
Tiles tile_image(const PixelView &image, const TilingInfo &tiling);

}  // namespace vprm::internal
