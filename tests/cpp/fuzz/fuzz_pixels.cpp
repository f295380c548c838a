// libFuzzer: images of any size and stride, cut at any tiling. The first bytes choose, the others are pixels.
#include "base/error.hpp"
#include "images/tiling.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
    if (size < 6) return 0;
    const int width = data[0] + 1, height = data[1] + 1;
    const std::size_t stride = static_cast<std::size_t>(width) * 3 + data[2] % 8;
    const vprm::internal::TilingInfo tiling{data[3] % 64 + 1, data[4] % 4 + 1, data[4] % 4 + 1 + data[5] % 12, data[2] > 127};
    std::vector<std::uint8_t> pixels(stride * static_cast<std::size_t>(height - 1) + static_cast<std::size_t>(width) * 3);
    for (std::size_t i = 0; i < pixels.size(); i++) pixels[i] = data[i % size];
    try {
        vprm::internal::tile_image({pixels.data(), width, height, stride}, tiling);
    } catch (const vprm::internal::Error &) {
    }
    return 0;
}
