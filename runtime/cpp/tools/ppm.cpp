#include "ppm.hpp"

#include <fstream>
#include <stdexcept>

namespace vprm::tools {

namespace {

constexpr int kMostPixelsASide = 1 << 20;
constexpr std::int64_t kMostPixels = std::int64_t{1} << 28;

// The next number of a header, after white space and comments.
int number(std::istream &file) {
    while (true) {
        file >> std::ws;
        if (file.peek() != '#') break;
        std::string comment;
        std::getline(file, comment);
    }
    int value = 0;
    file >> value;
    return file ? value : -1;
}

}  // namespace

PpmImage read_ppm(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("no image file at " + path + ": check the path");
    char magic[2] = {};
    file.read(magic, 2);
    if (magic[0] != 'P' || magic[1] != '6')
        throw std::runtime_error(path + " is not a binary PPM image: this program decodes no other files");
    PpmImage image;
    image.width_px = number(file);
    image.height_px = number(file);
    const int most = number(file);
    file.get();
    const auto pixels = static_cast<std::int64_t>(image.width_px) * image.height_px;
    if (image.width_px < 1 || image.height_px < 1 || image.width_px > kMostPixelsASide ||
        image.height_px > kMostPixelsASide || pixels > kMostPixels || most != 255)
        throw std::runtime_error(path + " is damaged, or has not 8 bits a channel");
    image.rgb.resize(static_cast<std::size_t>(pixels) * 3);
    file.read(reinterpret_cast<char *>(image.rgb.data()), static_cast<std::streamsize>(image.rgb.size()));
    if (!file) throw std::runtime_error(path + " is shorter than its header says");
    return image;
}

}  // namespace vprm::tools
