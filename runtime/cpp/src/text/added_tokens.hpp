// Added tokens found in text: leftmost first, the longest of those that start there.
//
// Special ones are ordinary characters here, as with `encode_special_tokens` of the `tokenizers` library; like there,
// their text is passed over as a whole, so that no other added token is found inside it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace vprm::internal {

// A stretch of text, or an added token in it.
struct TextPart {
    std::size_t start, end;
    std::int64_t token = -1;  // -1: text
};

class AddedTokens {
  public:
    void add(const std::string &content, std::uint32_t id, bool is_special);

    // Parts that cover the whole text; none of it for an empty text.
    std::vector<TextPart> parts(std::string_view text) const;

  private:
    struct Node {
        std::map<char, std::size_t> next;
        std::int64_t token = -1;
        bool is_special = false;
    };

    std::vector<Node> nodes_{1};
};

}  // namespace vprm::internal
