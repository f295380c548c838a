// Binary PPM images (P6, 8 or 16 bits a channel): the simplest file that any program can write.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vprm::tools {

struct PpmImage {
    int width_px = 0, height_px = 0;
    std::vector<std::uint8_t> rgb;

    bool operator==(const PpmImage &other) const {
        return width_px == other.width_px && height_px == other.height_px && rgb == other.rgb;
    }
};

// Both throw std::runtime_error saying what is wrong with the image. `name` is what messages call it.
PpmImage read_ppm(const std::string &path);
PpmImage ppm_of(std::string_view bytes, const std::string &name);

}  // namespace vprm::tools
