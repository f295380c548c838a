#include <doctest/doctest.h>

#include <cstring>

#include "base/error.hpp"
#include "scoring/cache_tree.hpp"
#include "scoring/prefix_pool.hpp"

using namespace vprm::internal;

namespace {

constexpr std::size_t kLayers = 2, kWidth = 3, kRowBytes = kWidth * sizeof(float);

Manifest small_manifest() {
    Manifest manifest{};
    manifest.model.layers = kLayers;
    manifest.model.kv_heads = 1;
    manifest.model.head_dim = kWidth;
    manifest.llm.io_type = FloatType::kFloat32;
    return manifest;
}

const Manifest kManifest = small_manifest();

KvCache cache_of(const std::shared_ptr<CacheMeter> &meter, std::size_t capacity) { return {kManifest, capacity, meter}; }

// Appends rows whose bytes say which they are.
void append(KvCache &cache, std::size_t count, unsigned char first) {
    cache.reserve(count);
    for (std::size_t i = 0; i < count; i++)
        for (std::size_t layer = 0; layer < kLayers; layer++)
            for (std::size_t part = 0; part < 2; part++)
                std::memset(cache.row(layer, part, cache.length_tokens() + i),
                            static_cast<int>(first + i) ^ static_cast<int>(layer << 7 | part << 6), kRowBytes);
    cache.advance(count);
}

// The numbers that `append` wrote; every layer and part must agree.
std::vector<int> numbers(const KvCache &cache) {
    std::vector<int> found;
    for (std::size_t token = 0; token < cache.length_tokens(); token++)
        for (std::size_t layer = 0; layer < kLayers; layer++)
            for (std::size_t part = 0; part < 2; part++) {
                const int number = static_cast<int>(cache.row(layer, part, token)[kRowBytes - 1]) ^
                                   static_cast<int>(layer << 7 | part << 6);
                if (layer + part == 0) found.push_back(number);
                REQUIRE(number == found.back());
            }
    return found;
}

std::shared_ptr<Prefix> prefix_of(const std::shared_ptr<CacheMeter> &meter, std::size_t tokens) {
    std::shared_ptr<Prefix> prefix(new Prefix{"Q", {}, {}, {cache_of(meter, tokens), 0}, {}});
    append(prefix->tree.cache(), tokens, 0);
    prefix->branch = prefix->tree.grown({}, 0, 0);
    return prefix;
}

constexpr std::size_t kTokenBytes = kLayers * 2 * kRowBytes;

}  // namespace

TEST_CASE("a cache keeps its rows wherever they move, and its bytes are counted") {
    const auto meter = std::make_shared<CacheMeter>(0);
    {
        KvCache cache = cache_of(meter, 2);
        CHECK(*meter == 2 * kTokenBytes);
        append(cache, 5, 10);
        CHECK(*meter == cache.size_bytes());
        CHECK(numbers(cache) == std::vector<int>{10, 11, 12, 13, 14});
        cache.keep({1, 3, 4});
        CHECK(numbers(cache) == std::vector<int>{11, 13, 14});
        cache.trim();
        CHECK(cache.capacity_tokens() == 3);
        CHECK(*meter == 3 * kTokenBytes);
        append(cache, 2, 20);
        cache.truncate(4);
        CHECK(numbers(cache) == std::vector<int>{11, 13, 14, 20});
    }
    CHECK(*meter == 0);
    CHECK_THROWS_AS(cache_of(meter, std::size_t{1} << 62), std::bad_alloc);
    CHECK(*meter == 0);
}

TEST_CASE("a tree forgets what no branch sees and moves the others") {
    const auto meter = std::make_shared<CacheMeter>(0);
    CacheTree tree(cache_of(meter, 8), 4);
    append(tree.cache(), 4, 0);
    const Branch root = tree.grown({}, 0, 0);
    append(tree.cache(), 3, 4);
    auto dropped = std::make_unique<Branch>(tree.grown(root, 4, 4));
    append(tree.cache(), 2, 7);
    const Branch kept = tree.grown(root, 3, 7);
    CHECK(kept.rows() == Rows{0, 1, 2, 7, 8});
    CHECK(kept.tokens() == 5);
    dropped.reset();
    tree.reclaim();  // three of nine rows are unused: more than a quarter of the others
    CHECK(kept.rows() == Rows{0, 1, 2, 4, 5});
    CHECK(numbers(tree.cache()) == std::vector<int>{0, 1, 2, 3, 7, 8});
    tree.rest();
    CHECK(tree.cache().capacity_tokens() <= 8);
    CHECK(root.rows() == Rows{0, 1, 2, 3});
}

TEST_CASE("a tree in use is busy for everybody else") {
    const auto meter = std::make_shared<CacheMeter>(0);
    CacheTree tree(cache_of(meter, 1), 1);
    {
        const InUse first(tree);
        CHECK_THROWS_AS(InUse second(tree), Error);
    }
    CHECK_NOTHROW(InUse third(tree));
}

TEST_CASE("kept prefixes go least recently used first, and make room for what is in use") {
    const auto meter = std::make_shared<CacheMeter>(0);
    PrefixPool pool(10 * kTokenBytes, meter);
    CHECK(pool.keeps_any());
    pool.give_back("a", prefix_of(meter, 4));
    pool.give_back("b", prefix_of(meter, 4));
    CHECK(pool.size_bytes() == 8 * kTokenBytes);
    pool.give_back("a", pool.take("a"));  // the last used
    pool.give_back("c", prefix_of(meter, 4));
    CHECK(pool.take("b") == nullptr);
    CHECK(pool.size_bytes() == 8 * kTokenBytes);
    const auto session = prefix_of(meter, 5);  // somebody's open session
    pool.shrink();
    CHECK(pool.size_bytes() == 4 * kTokenBytes);
    CHECK(pool.take("a") == nullptr);
    {
        const auto larger = prefix_of(meter, 50);
        pool.shrink();
    }
    CHECK(pool.size_bytes() == 0);
    CHECK(*meter == 5 * kTokenBytes);
    pool.give_back("d", prefix_of(meter, 5));
    CHECK(pool.size_bytes() == 5 * kTokenBytes);
    pool.give_back("d", prefix_of(meter, 4));  // two threads ran the same one: the later is kept
    CHECK(pool.size_bytes() == 4 * kTokenBytes);
    pool.give_back("huge", prefix_of(meter, 50));
    CHECK(pool.take("huge") == nullptr);
    CHECK(PrefixPool(0, meter).keeps_any() == false);
}
