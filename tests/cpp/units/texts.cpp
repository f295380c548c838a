#include <doctest/doctest.h>

#include "base/error.hpp"
#include "base/utf8.hpp"
#include "prompt/prompt_builder.hpp"
#include "text/pattern.hpp"
#include "text/unicode.hpp"

using namespace vprm::internal;

namespace {

std::vector<std::string> pieces(const char *expression, const std::string &text) {
    const std::u32string characters = characters_of(text);
    std::vector<std::string> found;
    for (const auto &[start, end] : Pattern(expression).pieces(characters)) {
        std::string piece;
        for (std::size_t i = start; i < end; i++) append_utf8(piece, characters[i]);
        found.push_back(piece);
    }
    return found;
}

using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("patterns split as regular expressions do") {
    CHECK(pieces(R"(\p{N}{1,3})", "12345a6") == Texts{"123", "45", "a", "6"});
    CHECK(pieces(R"(\s+(?!\S)|\s+)", "a   b ") == Texts{"a", "  ", " ", "b", " "});
    CHECK(pieces(R"((?i:'s|'t)|[^'])", "'S'\xC5\xBF") == Texts{"'S", "'\xC5\xBF"});
    CHECK(pieces(R"( ?\p{L}+)", "ab  c\xC3\xA9!") == Texts{"ab", " ", " c\xC3\xA9", "!"});
    CHECK(pieces(R"([\r\n]*x)", "\n\nx\r") == Texts{"\n\nx", "\r"});
    CHECK(pieces(R"(a)", "").empty());
}

TEST_CASE("what a pattern cannot express is refused by name") {
    for (const char *expression : {"", "a||b", "a*", "(ab)", "(?<=a)b", "a+?", "a{2", "[", "[]", "\\", "\\p{Lu}", "a{3,2}", "(?i:a",
                                   "a{99999999999}", "^a", "a$", "."})
        CHECK_THROWS_AS(Pattern{expression}, Error);
}

TEST_CASE("white space is Python's for blank questions, the library's for \\s") {
    CHECK(is_blank(""));
    CHECK(is_blank(" \t\x1F\xC2\x85\xE3\x80\x80"));
    CHECK(!is_blank("\xE2\x80\x8B"));  // zero width space
    CHECK(is_space(U'\u0085'));
    CHECK(!is_space(U'\u001F'));
}

TEST_CASE("NFC composes, orders marks and builds syllables") {
    CHECK(nfc(U"e\u0301") == U"\u00E9");
    CHECK(nfc(U"a\u0301\u0323") == U"\u1EA1\u0301");
    CHECK(nfc(U"\u1112\u1161\u11AB") == U"\uD55C");
    CHECK(nfc(U"\u212B") == U"\u00C5");
    CHECK(nfc(U"\uFB01") == U"\uFB01");
}

TEST_CASE("responses become steps, and at most max_steps of them") {
    ScoreRule rule{};
    rule.step_joiner = "\n\n";
    CHECK(split_steps(std::string("a\n\nb\n\n\n\nc"), rule, 0) == Texts{"a", "b", "", "c"});
    CHECK(split_steps(std::string(), rule, 0) == Texts{""});
    CHECK(split_steps(Texts{"a\n\nb", "c"}, rule, 0) == Texts{"a\n\nb", "c"});
    CHECK(split_steps(Texts{"1", "2", "3", "4", "5"}, rule, 2) == Texts{"1\n\n2\n\n3", "4\n\n5"});
    CHECK(split_steps(Texts{"1", "2", "3"}, rule, 7) == Texts{"1", "2", "3"});
    CHECK_THROWS_AS(split_steps(Texts{}, rule, 0), Error);
}
