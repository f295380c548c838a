// UTF-8, read strictly: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace vprm::internal {

// Offset of the first byte that is not valid UTF-8; the text's size if all is valid.
std::size_t valid_utf8_prefix(std::string_view text);

// The character at `offset` of valid UTF-8; moves `offset` past it.
char32_t next_character(std::string_view text, std::size_t &offset);

void append_utf8(std::string &text, char32_t character);

std::u32string characters_of(std::string_view valid_utf8);

}  // namespace vprm::internal
