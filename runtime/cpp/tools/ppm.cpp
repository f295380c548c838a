#include "ppm.hpp"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace vprm::tools {

namespace {

constexpr std::uint64_t kMostEdgePx = 1 << 18, kMostPixels = 178'956'970;  // as the Python package
constexpr std::size_t kMostDigits = 9;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Reads a header's numbers.
class Header {
  public:
    explicit Header(std::string_view bytes) : bytes_(bytes) {}

    std::size_t read() const { return at_; }

    // The next number, after white space and comments; 0 if there is none.
    std::uint64_t number() {
        while (at_ < bytes_.size() && (is_space(bytes_[at_]) || bytes_[at_] == '#')) {
            if (bytes_[at_] == '#')
                while (at_ < bytes_.size() && bytes_[at_] != '\n') at_++;
            else
                at_++;
        }
        std::uint64_t value = 0;
        for (std::size_t digits = 0; at_ < bytes_.size() && bytes_[at_] >= '0' && bytes_[at_] <= '9'; at_++) {
            if (++digits > kMostDigits) return 0;
            value = value * 10 + static_cast<std::uint64_t>(bytes_[at_] - '0');
        }
        return value;
    }

    bool skip_space() { return at_ < bytes_.size() && is_space(bytes_[at_++]); }

  private:
    std::string_view bytes_;
    std::size_t at_ = 2;
};

}  // namespace

PpmImage ppm_of(std::string_view bytes, const std::string &name) {
    if (bytes.size() < 3 || bytes.substr(0, 2) != "P6" || !is_space(bytes[2]))
        throw std::runtime_error(name + " is no binary PPM image (P6): this program decodes nothing else");
    Header header(bytes);
    const std::uint64_t width = header.number(), height = header.number(), most = header.number();
    if (width == 0 || height == 0 || most != 255 || !header.skip_space())
        throw std::runtime_error(name + " is damaged, or has not 8 bits a channel");
    if (width > kMostEdgePx || height > kMostEdgePx || width * height > kMostPixels)
        throw std::runtime_error(name + " has " + std::to_string(width) + " x " + std::to_string(height) +
                                 " pixels, more than are decoded: scale it down first");
    const std::uint64_t size = width * height * 3;
    if (bytes.size() - header.read() < size) throw std::runtime_error(name + " is shorter than its header says");
    PpmImage image{static_cast<int>(width), static_cast<int>(height), std::vector<std::uint8_t>(size)};
    std::memcpy(image.rgb.data(), bytes.data() + header.read(), size);
    return image;
}

PpmImage read_ppm(const std::string &path) {
    std::error_code problem;
    if (path.find('\0') != std::string::npos || !std::filesystem::exists(path, problem))
        throw std::runtime_error("no image file at " + path + ": check the path (rows: relative to --image-root)");
    if (!std::filesystem::is_regular_file(path, problem)) throw std::runtime_error(path + " is no file: name an image file");
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!file) throw std::runtime_error(path + " cannot be read: check its permissions");
    return ppm_of(bytes, path);
}

}  // namespace vprm::tools
