// Character classes and NFC exactly as the pinned `tokenizers` library has them.
#pragma once

#include <string>
#include <string_view>

namespace vprm::internal {

bool is_letter(char32_t character);
bool is_number(char32_t character);
bool is_space(char32_t character);  // \s of the library's regular expressions

// Whether nothing is left of the text (valid UTF-8) after Python's str.strip().
bool is_blank(std::string_view text);

std::u32string nfc(const std::u32string &text);

}  // namespace vprm::internal
