#include "images/tiling.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.hpp"

namespace vprm::internal {

namespace {

// Copies the square at (column, row) of a resized image to `to`.
void cut_tile(const Pixels &image, int column, int row, int size, std::uint8_t *to) {
    const std::size_t line = static_cast<std::size_t>(size) * 3;
    const PixelView view = image.view();
    for (int y = 0; y < size; y++)
        std::memcpy(to + line * static_cast<std::size_t>(y), view.row(row * size + y) + line * static_cast<std::size_t>(column),
                    line);
}

}  // namespace

Grid tile_grid(int width_px, int height_px, const TilingInfo &tiling) {
    const double aspect_ratio = static_cast<double>(width_px) / height_px;
    const double pixels = static_cast<double>(width_px) * height_px;
    const double half_tile = 0.5 * tiling.tile_size_px * tiling.tile_size_px;
    Grid best{1, 1};
    double best_difference = std::numeric_limits<double>::infinity();
    bool is_ambiguous = false;
    for (int area = tiling.min_tiles; area <= tiling.max_tiles; area++) {
        for (int columns = 1; columns <= area; columns++) {
            if (area % columns != 0) continue;
            const int rows = area / columns;
            const double difference = std::fabs(aspect_ratio - static_cast<double>(columns) / rows);
            if (difference > best_difference) continue;
            if (difference == best_difference) {
                is_ambiguous = is_ambiguous || area == best.columns * best.rows;
                if (!(pixels > half_tile * columns * rows)) continue;
            }
            is_ambiguous = difference == best_difference && area == best.columns * best.rows;
            best = {columns, rows};
            best_difference = difference;
        }
    }
    if (is_ambiguous)
        throw unsupported("an image of " + std::to_string(width_px) + " x " + std::to_string(height_px) +
                          " pixels is equally close to two grids of equal area: set max_tiles to another value");
    return best;
}

Tiles tile_image(const PixelView &image, const TilingInfo &tiling) {
    if (image.width_px < 1 || image.height_px < 1)
        throw input_error("the image has no area (" + std::to_string(image.width_px) + " x " +
                          std::to_string(image.height_px) + " pixels)");
    const int size = tiling.tile_size_px;
    const Grid grid = tile_grid(image.width_px, image.height_px, tiling);
    Tiles tiles;
    const int in_grid = grid.columns * grid.rows;
    tiles.count = in_grid + (tiling.use_thumbnail && in_grid > 1 ? 1 : 0);
    tiles.pixels.resize(tile_bytes(size) * static_cast<std::size_t>(tiles.count));
    std::uint8_t *to = tiles.pixels.data();
    const Pixels whole = resized(image, grid.columns * size, grid.rows * size);
    for (int row = 0; row < grid.rows; row++)
        for (int column = 0; column < grid.columns; column++, to += tile_bytes(size))
            cut_tile(whole, column, row, size, to);
    if (tiles.count > in_grid) cut_tile(resized(image, size, size), 0, 0, size, to);
    return tiles;
}

}  // namespace vprm::internal
