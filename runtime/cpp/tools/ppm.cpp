#include "ppm.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace vprm::tools {

namespace {

constexpr std::uint64_t kMostEdgePx = 1 << 18, kMostPixels = 178'956'970;  // as the Python package
constexpr std::uint64_t kMostFileBytes = 1ull << 31;
constexpr std::uint64_t kMostChannel = 65'535;
constexpr std::size_t kMostDigits = 10;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Reads a header's numbers as Pillow does (src/PIL/PpmImagePlugin.py).
class Header {
  public:
    explicit Header(std::string_view bytes) : bytes_(bytes) {}

    // Bytes up to the white space after the last number, that one included.
    std::size_t read() const { return at_; }

    // The next number, which one white space ends; 0 if there is none. A comment may be anywhere, in it too.
    std::uint64_t number() {
        std::uint64_t value = 0;
        std::size_t digits = 0;
        while (at_ < bytes_.size()) {
            const char c = bytes_[at_++];
            if (c == '#') {
                while (at_ < bytes_.size() && bytes_[at_] != '\n' && bytes_[at_] != '\r') at_++;
                at_ += at_ < bytes_.size() ? 1 : 0;
            } else if (is_space(c)) {
                if (digits > 0) break;
            } else if (c < '0' || c > '9' || ++digits > kMostDigits) {
                return 0;
            } else {
                value = value * 10 + static_cast<std::uint64_t>(c - '0');
            }
        }
        return value;
    }

  private:
    std::string_view bytes_;
    std::size_t at_ = 2;
};

// Pixels with channels up to `most` become pixels up to 255, rounded as Python does.
std::vector<std::uint8_t> scaled(std::string_view bytes, std::uint64_t most) {
    const std::size_t width = most < 256 ? 1 : 2;
    std::vector<std::uint8_t> rgb(bytes.size() / width);
    for (std::size_t i = 0; i < rgb.size(); i++) {
        unsigned value = 0;
        for (std::size_t part = 0; part < width; part++)
            value = value << 8 | static_cast<unsigned char>(bytes[i * width + part]);
        rgb[i] = static_cast<std::uint8_t>(std::min(255.0, std::nearbyint(value / static_cast<double>(most) * 255)));
    }
    return rgb;
}

}  // namespace

PpmImage ppm_of(std::string_view bytes, const std::string &name) {
    if (bytes.size() < 3 || bytes.substr(0, 2) != "P6" || !is_space(bytes[2]))
        throw std::runtime_error(name + " is no binary PPM image (P6): this program decodes nothing else");
    Header header(bytes);
    const std::uint64_t width = header.number(), height = header.number(), most = header.number();
    if (width == 0 || height == 0 || most == 0 || most > kMostChannel)
        throw std::runtime_error(name + " has no area, or its header is damaged");
    if (width > kMostEdgePx || height > kMostEdgePx || width * height > kMostPixels)
        throw std::runtime_error(name + " has " + std::to_string(width) + " x " + std::to_string(height) +
                                 " pixels, more than are decoded: scale it down first");
    const std::uint64_t size = width * height * 3 * (most < 256 ? 1 : 2);
    if (bytes.size() - header.read() < size) throw std::runtime_error(name + " is shorter than its header says");
    PpmImage image{static_cast<int>(width), static_cast<int>(height), {}};
    const std::string_view pixels = bytes.substr(header.read(), size);
    if (most == 255)
        image.rgb.assign(pixels.begin(), pixels.end());
    else
        image.rgb = scaled(pixels, most);
    return image;
}

PpmImage read_ppm(const std::string &path) {
    std::error_code problem;
    if (path.find('\0') != std::string::npos || !std::filesystem::exists(path, problem))
        throw std::runtime_error("no image file at " + path + ": check the path (rows: relative to --image-root)");
    if (!std::filesystem::is_regular_file(path, problem)) throw std::runtime_error(path + " is no file: name an image file");
    if (std::filesystem::file_size(path, problem) > kMostFileBytes)
        throw std::runtime_error(path + " has more than 2,147,483,648 bytes, which are not read: scale it down first");
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!file) throw std::runtime_error(path + " cannot be read: check its permissions");
    return ppm_of(bytes, path);
}

}  // namespace vprm::tools
