#include "base64.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace vprm::tools {

namespace {

constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::ptrdiff_t kLeastCharacters = 100;  // a path may begin with /9j/ too, but no image is this small

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

// The text with small letters: a URL's scheme may be in capitals.
std::string small(std::string_view text) {
    std::string made(text);
    for (char &c : made) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return made;
}

bool is_data_url(std::string_view text) { return small(text.substr(0, 5)) == "data:"; }

std::string from_base64(std::string_view text) {
    std::string digits;
    for (const char c : text)
        if (c != ' ' && !(c >= '\t' && c <= '\r') && !(c >= '\x1c' && c <= '\x1f')) digits += c;
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
    if (is_data_url(text)) return true;
    const auto characters = std::count_if(text.begin(), text.end(),
                                          [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
    for (const char *start : {"iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk0", "Qk1", "Qk2", "Qk3", "SUkq", "TU0A"})
        if (characters >= kLeastCharacters && starts_with(text, start)) return true;
    return false;
}

std::string decoded_image(std::string_view text) {
    if (is_data_url(text)) {
        const auto comma = text.find(',');
        const std::string_view head = text.substr(0, comma);
        if (comma == std::string_view::npos || head.size() < 7 || small(head.substr(head.size() - 7)) != ";base64")
            throw std::runtime_error("a data URL of an image must be data:TYPE;base64,DATA: encode the image file's bytes again");
        text = text.substr(comma + 1);
    }
    return from_base64(text);
}

}  // namespace vprm::tools
