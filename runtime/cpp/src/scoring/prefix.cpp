#include "scoring/prefix.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/sha256.hpp"

namespace vprm::internal {

namespace {

std::vector<Tiles> tiles_of(const Model &model, const Input &input, const Cancellation *cancellation) {
    const TilingInfo tiling = model.manifest().tiling.limited(input.max_tiles);
    std::vector<Tiles> tiles;
    for (const Image &image : input.images) {
        check(cancellation);
        if (const auto *pixels = std::get_if<PixelView>(&image)) {
            tiles.push_back(tile_image(*pixels, tiling));
        } else {
            const TileView &ready = std::get<TileView>(image);
            const std::size_t bytes = tile_bytes(tiling.tile_size_px) * static_cast<std::size_t>(ready.count);
            tiles.push_back({ready.count, {ready.pixels, ready.pixels + bytes}});
        }
    }
    return tiles;
}

Embeds encoded(const Model &model, const std::vector<Tiles> &tiles, const Cancellation *cancellation) {
    const std::size_t bytes = tile_bytes(model.manifest().tiling.tile_size_px);
    Embeds embeds;
    for (const Tiles &image : tiles)
        for (int i = 0; i < image.count; i++) {
            check(cancellation);
            model.engine.encode_tile(image.pixels.data() + bytes * static_cast<std::size_t>(i), embeds);
        }
    return embeds;
}

}  // namespace

std::shared_ptr<Prefix> run_prefix(const Model &model, const Input &input, const Cancellation *cancellation) {
    std::vector<Tiles> tiles = tiles_of(model, input, cancellation);
    std::vector<int> counts;
    for (const Tiles &image : tiles) counts.push_back(image.count);
    Ids ids = model.prompts.prefix(input.question, counts);
    model.check_length(ids.size(), "the question and its images take");
    const Embeds embeds = encoded(model, tiles, cancellation);
    tiles.clear();
    const std::size_t size = model.max_block_tokens;
    // CacheTree cannot move: the prefix is made in its place.
    std::shared_ptr<Prefix> prefix(new Prefix{
        input.question, std::move(counts), std::move(ids), {model.new_cache(ids.size() + size), size}, {}});
    KvCache &cache = prefix->tree.cache();
    const TokenId context = model.manifest().tokens.img_context;
    std::size_t used = 0;
    Rows seen;
    for (std::size_t start = 0; start < prefix->ids.size(); start += size) {
        check(cancellation);
        const std::size_t stop = std::min(start + size, prefix->ids.size());
        const auto first = prefix->ids.begin();
        const auto wanted = static_cast<std::size_t>(std::count(first + static_cast<std::ptrdiff_t>(start),
                                                                first + static_cast<std::ptrdiff_t>(stop), context));
        model.engine.forward(causal_block(prefix->ids, start, stop, start, seen, embeds.rows(used, wanted), {}), cache);
        used += wanted;
        while (seen.size() < stop) seen.push_back(seen.size());
    }
    prefix->branch = prefix->tree.grown({}, 0, 0);
    return prefix;
}

std::string prefix_key(const Model &model, const Input &input) {
    Sha256 hash;
    hash.add(std::uint64_t{input.question.size()});
    hash.add(input.question);
    hash.add(static_cast<std::uint64_t>(input.max_tiles));
    for (const Image &image : input.images) {
        hash.add(std::uint64_t{image.index()});
        if (const auto *pixels = std::get_if<PixelView>(&image)) {
            hash.add(static_cast<std::uint64_t>(pixels->width_px));
            hash.add(static_cast<std::uint64_t>(pixels->height_px));
            for (int y = 0; y < pixels->height_px; y++)
                hash.add(pixels->row(y), static_cast<std::size_t>(pixels->width_px) * 3);
        } else {
            const TileView &ready = std::get<TileView>(image);
            hash.add(static_cast<std::uint64_t>(ready.count));
            hash.add(ready.pixels, tile_bytes(model.manifest().tiling.tile_size_px) * static_cast<std::size_t>(ready.count));
        }
    }
    return hash.digest();
}

}  // namespace vprm::internal
