#include "base64.hpp"

#include <array>
#include <cstdint>
#include <stdexcept>

namespace vprm::tools {

namespace {

constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::size_t kLeastCharacters = 100;  // a path may begin with /9j/ too, but no image is this small

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

std::string from_base64(std::string_view text) {
    std::string digits;
    for (const char c : text)
        if (c != ' ' && !(c >= '\t' && c <= '\r')) digits += c;
    std::size_t padding = 0;
    while (padding < 2 && !digits.empty() && digits.back() == '=') digits.pop_back(), padding++;
    if ((digits.size() + padding) % 4 != 0)
        throw std::runtime_error("an image is not valid base64 (its length): encode the image file's bytes again");
    std::string bytes;
    std::uint32_t bits = 0;
    int count = 0;
    for (const char c : digits) {
        const std::size_t value = kDigits.find(c);
        if (value == std::string_view::npos)
            throw std::runtime_error("an image is not valid base64 (a character): encode the image file's bytes again");
        bits = bits << 6 | static_cast<std::uint32_t>(value);
        if ((count += 6) >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 0xFF);
    }
    return bytes;
}

}  // namespace

bool looks_encoded(std::string_view text) {
    if (starts_with(text, "data:")) return true;
    for (const char *start : {"iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0", "Qk1", "Qk2", "Qk3", "SUkq", "TU0A"})
        if (text.size() >= kLeastCharacters && starts_with(text, start)) return true;
    return false;
}

std::string decoded_image(std::string_view text) {
    if (starts_with(text, "data:")) {
        const auto comma = text.find(',');
        const std::string_view head = text.substr(0, comma);
        if (comma == std::string_view::npos || head.size() < 7 || head.substr(head.size() - 7) != ";base64")
            throw std::runtime_error("a data URL of an image must be data:TYPE;base64,DATA: encode the image file's bytes again");
        text = text.substr(comma + 1);
    }
    return from_base64(text);
}

}  // namespace vprm::tools
