// A question about images: given by the caller, and run through both graphs into a cache.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "images/tiling.hpp"
#include "scoring/cache_tree.hpp"
#include "scoring/cancellation.hpp"
#include "scoring/model.hpp"

namespace vprm::internal {

// Tiles that the caller cut: RGB8 [count, size, size, 3], in its memory.
struct TileView {
    const std::uint8_t *pixels;
    int count;
};

using Image = std::variant<PixelView, TileView>;

// What the caller gives: images (in its memory, which must stay while a call takes them), question, tiles per image.
struct Input {
    std::vector<Image> images;
    std::string question;
    int max_tiles = 0;  // 0: the bundle's
};

// A prefix in a cache: its ids, its tiles per image, and the branch that holds its rows.
struct Prefix {
    std::string question;
    std::vector<int> tiles;
    Ids ids;
    CacheTree tree;
    Branch branch;
};

// Tile, tokenise, encode the images and run the prefix block by block. Throws input, engine and cancellation errors.
std::shared_ptr<Prefix> run_prefix(const Model &model, const Input &input, const Cancellation *cancellation);

// A hash of all that decides a prefix: pixels, question, and tiles per image.
std::string prefix_key(const Model &model, const Input &input);

}  // namespace vprm::internal
