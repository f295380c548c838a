// Binary PPM images (P6, 8 bits): the simplest file that any program can write.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vprm::tools {

struct PpmImage {
    int width_px = 0, height_px = 0;
    std::vector<std::uint8_t> rgb;

    bool operator==(const PpmImage &other) const {
        return width_px == other.width_px && height_px == other.height_px && rgb == other.rgb;
    }
};

// Throws std::runtime_error saying what is wrong with the file.
PpmImage read_ppm(const std::string &path);

}  // namespace vprm::tools
