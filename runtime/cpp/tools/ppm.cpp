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

Picture read_ppm(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("no image file at " + path + ": check the path");
    char magic[2] = {};
    file.read(magic, 2);
    if (magic[0] != 'P' || magic[1] != '6')
        throw std::runtime_error(path + " is not a binary PPM image: this program decodes no other files");
    Picture picture;
    picture.width_px = number(file);
    picture.height_px = number(file);
    const int most = number(file);
    file.get();
    const auto pixels = static_cast<std::int64_t>(picture.width_px) * picture.height_px;
    if (picture.width_px < 1 || picture.height_px < 1 || picture.width_px > kMostPixelsASide ||
        picture.height_px > kMostPixelsASide || pixels > kMostPixels || most != 255)
        throw std::runtime_error(path + " is damaged, or has not 8 bits a channel");
    picture.rgb.resize(static_cast<std::size_t>(pixels) * 3);
    file.read(reinterpret_cast<char *>(picture.rgb.data()), static_cast<std::streamsize>(picture.rgb.size()));
    if (!file) throw std::runtime_error(path + " is shorter than its header says");
    return picture;
}

}  // namespace vprm::tools
