// The regular expressions that tokenizers split text with: alternatives of quantified single characters.
//
// Supported: literals, \r \n \t, classes [...] and [^...] of them, \s \S \p{L} \p{N}, the quantifiers ? * + {n} {m,n}
// (greedy), lookahead (?=x) (?!x) of one character, and (?i:...) around literals. Anything else is refused by name.
// Every match takes at least one character, and matching needs no recursion that the text's length could deepen.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vprm::internal {

class Pattern {
  public:
    // Throws an unsupported error naming what it cannot execute.
    explicit Pattern(std::string_view expression);

    // The text cut into matches and what is between them, as (start, end) of each piece.
    std::vector<std::pair<std::size_t, std::size_t>> pieces(const std::u32string &text) const;

  private:
    enum class Class { kLetter, kNumber, kSpace };

    struct ClassItem {
        Class kind;
        bool is_negated;
    };

    // A set of characters.
    struct Atom {
        std::u32string literals;
        std::vector<ClassItem> classes;
        bool is_negated = false;

        bool contains(char32_t character) const;
    };

    struct Item {
        enum class Kind { kRepeated, kFollowedBy, kNotFollowedBy } kind = Kind::kRepeated;
        Atom atom;
        std::size_t least = 1, most = 1;
    };

    using Sequence = std::vector<Item>;

    class Parser;

    // End of the match of items[at..] from `start`, or npos.
    std::size_t match(const Sequence &items, std::size_t at, const std::u32string &text, std::size_t start) const;

    std::vector<Sequence> alternatives_;
};

}  // namespace vprm::internal
