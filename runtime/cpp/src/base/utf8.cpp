#include "base/utf8.hpp"

#include "base/error.hpp"

namespace vprm::internal {

namespace {

constexpr std::size_t kMostQuotedBytes = 200;

bool is_continuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

// Length in bytes of the valid character at `offset`, or 0.
std::size_t character_bytes(std::string_view text, std::size_t offset) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[offset + i]); };
    const std::size_t left = text.size() - offset;
    const unsigned char first = byte(0);
    if (first < 0x80) return 1;
    if (first >= 0xC2 && first <= 0xDF) return left >= 2 && is_continuation(byte(1)) ? 2 : 0;
    if (first >= 0xE0 && first <= 0xEF) {
        if (left < 3 || !is_continuation(byte(1)) || !is_continuation(byte(2))) return 0;
        if (first == 0xE0 && byte(1) < 0xA0) return 0;   // overlong
        if (first == 0xED && byte(1) >= 0xA0) return 0;  // surrogate
        return 3;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        if (left < 4 || !is_continuation(byte(1)) || !is_continuation(byte(2)) || !is_continuation(byte(3))) return 0;
        if (first == 0xF0 && byte(1) < 0x90) return 0;   // overlong
        if (first == 0xF4 && byte(1) >= 0x90) return 0;  // above U+10FFFF
        return 4;
    }
    return 0;
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) {
    std::size_t offset = 0;
    while (offset < text.size()) {
        const std::size_t bytes = character_bytes(text, offset);
        if (bytes == 0) break;
        offset += bytes;
    }
    return offset;
}

char32_t next_character(std::string_view text, std::size_t &offset) {
    const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
    const char32_t first = byte(offset);
    if (first < 0x80) {
        offset += 1;
        return first;
    }
    if (first < 0xE0) {
        offset += 2;
        return (first & 0x1F) << 6 | (byte(offset - 1) & 0x3F);
    }
    if (first < 0xF0) {
        offset += 3;
        return (first & 0x0F) << 12 | (byte(offset - 2) & 0x3F) << 6 | (byte(offset - 1) & 0x3F);
    }
    offset += 4;
    return (first & 0x07) << 18 | (byte(offset - 3) & 0x3F) << 12 | (byte(offset - 2) & 0x3F) << 6 |
           (byte(offset - 1) & 0x3F);
}

void append_utf8(std::string &text, char32_t character) {
    const auto push = [&](char32_t value) { text.push_back(static_cast<char>(value)); };
    if (character < 0x80) {
        push(character);
    } else if (character < 0x800) {
        push(0xC0 | character >> 6);
        push(0x80 | (character & 0x3F));
    } else if (character < 0x10000) {
        push(0xE0 | character >> 12);
        push(0x80 | (character >> 6 & 0x3F));
        push(0x80 | (character & 0x3F));
    } else {
        push(0xF0 | character >> 18);
        push(0x80 | (character >> 12 & 0x3F));
        push(0x80 | (character >> 6 & 0x3F));
        push(0x80 | (character & 0x3F));
    }
}

std::u32string characters_of(std::string_view valid_utf8) {
    std::u32string characters;
    characters.reserve(valid_utf8.size());
    for (std::size_t offset = 0; offset < valid_utf8.size();)
        characters.push_back(next_character(valid_utf8, offset));
    return characters;
}

std::string excerpt(std::string_view text) {
    std::string shown;
    std::size_t offset = 0;
    while (offset < text.size() && offset < kMostQuotedBytes - 4) {
        const std::size_t bytes = character_bytes(text, offset);
        const auto first = static_cast<unsigned char>(text[offset]);
        if (bytes == 0 || first < 0x20 || first == 0x7F) {
            shown.push_back('?');
            offset += 1;
        } else {
            shown.append(text, offset, bytes);
            offset += bytes;
        }
    }
    return offset < text.size() ? shown + " ..." : shown;
}

}  // namespace vprm::internal
