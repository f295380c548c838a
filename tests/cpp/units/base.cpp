#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "base/error.hpp"
#include "base/sha256.hpp"
#include "base/utf8.hpp"
#include "bundle/strict_json.hpp"
#include "engine/half.hpp"
#include "scoring/cancellation.hpp"

using namespace vprm::internal;

namespace {

std::string sha256(const std::string &text, std::size_t piece) {
    Sha256 hash;
    for (std::size_t start = 0; start < text.size(); start += piece) hash.add(std::string_view(text).substr(start, piece));
    return hexadecimal(hash.digest());
}

}  // namespace

TEST_CASE("SHA-256 gives FIPS 180-4's examples, however the bytes come") {
    const std::string million(1'000'000, 'a');
    for (const std::size_t piece : {1u, 63u, 64u, 65u, 1'000'000u}) {
        CHECK(sha256("", piece) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        CHECK(sha256("abc", piece) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        CHECK(sha256(million, piece) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
}

TEST_CASE("every half becomes its float and comes back") {
    for (std::uint32_t bits = 0; bits < 0x10000; bits++) {
        const auto half = static_cast<std::uint16_t>(bits);
        const float value = float_from_half(half);
        if (std::isnan(value)) {
            CHECK(std::isnan(float_from_half(half_from_float(value))));
            continue;
        }
        REQUIRE(half_from_float(value) == half);
    }
}

TEST_CASE("floats between two halves go to the nearest, ties to the even one") {
    for (std::uint16_t half = 0; half < 0x7BFF; half++) {
        const float low = float_from_half(half), high = float_from_half(half + 1), middle = low + (high - low) / 2;
        REQUIRE(half_from_float(middle) == (half % 2 == 0 ? half : half + 1));
        REQUIRE(half_from_float(std::nextafter(middle, low)) == half);
        REQUIRE(half_from_float(-std::nextafter(middle, high)) == (0x8000 | (half + 1)));
    }
    CHECK(half_from_float(65519.0f) == 0x7BFF);
    CHECK(half_from_float(65520.0f) == 0x7C00);
    CHECK(half_from_float(-INFINITY) == 0xFC00);
}

TEST_CASE("UTF-8 is read strictly") {
    const std::pair<std::string, std::size_t> cases[] = {
        {"", 0},
        {"a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x99\x82", 10},
        {"a\xC3", 1},                  // cut
        {"\xC0\x80", 0},               // overlong
        {"\xE0\x9F\xBF", 0},           // overlong
        {"\xF0\x8F\xBF\xBF", 0},       // overlong
        {"ab\xED\xA0\x80", 2},         // half a surrogate pair
        {"\xF4\x90\x80\x80", 0},       // beyond U+10FFFF
        {"\x80", 0},                   // a continuation alone
        {"\xFF", 0},
        {std::string("a\0b", 3), 3},
    };
    for (const auto &[text, valid] : cases) CHECK(valid_utf8_prefix(text) == valid);
    for (char32_t code = 0; code <= 0x10FFFF; code++) {
        if (code >= 0xD800 && code < 0xE000) continue;
        std::string text;
        append_utf8(text, code);
        std::size_t offset = 0;
        REQUIRE(valid_utf8_prefix(text) == text.size());
        REQUIRE(next_character(text, offset) == code);
        REQUIRE(offset == text.size());
    }
}

TEST_CASE("quoted text is short, and has whole characters only") {
    CHECK(excerpt("a\nb\x7F\xFF") == "a?b??");
    const std::string long_text = excerpt(std::string(195, 'x') + "\xF0\x9F\x99\x82" + std::string(500, 'y'));
    CHECK(long_text.size() <= 203);
    CHECK(long_text.substr(long_text.size() - 4) == " ...");
    CHECK(valid_utf8_prefix(long_text) == long_text.size());
}

TEST_CASE("JSON that parsers read differently is refused") {
    CHECK(strict_json<nlohmann::json>(R"({"a": [1, {"b": 2}], "c": {"b": 3}})").size() == 2);
    for (const std::string text : {R"({"a": 1, "a": 2})", R"([{"b": {"a": 1, "a": 1}}])", "[NaN]", "[1] 2", "{", "", "\"\\ud83d\"",
                                   "\"\xFF\"", "[1,]", "[01]", "'a'"})
        CHECK_THROWS_AS(strict_json<nlohmann::json>(text), JsonError);
    CHECK_THROWS_AS(strict_json<nlohmann::json>(std::string(100'000, '[')), JsonError);
}

TEST_CASE("a call is stopped by another thread or by its deadline") {
    Cancellation cancellation;
    CHECK_NOTHROW(cancellation.check());
    CHECK_NOTHROW(check(nullptr));
    cancellation.set_deadline_ms(1'000'000'000);
    CHECK_NOTHROW(cancellation.check());
    cancellation.set_deadline_ms(INT64_MAX);
    CHECK_NOTHROW(cancellation.check());
    cancellation.set_deadline_ms(INT64_MIN);
    CHECK_THROWS_AS(cancellation.check(), Error);
    cancellation.set_deadline_ms(0);
    try {
        cancellation.check();
        FAIL("the deadline has passed");
    } catch (const Error &error) {
        CHECK(error.code() == ErrorCode::kDeadline);
        CHECK(std::strcmp(error.reason(), "deadline") == 0);
    }
    cancellation.cancel();
    CHECK_THROWS_WITH(cancellation.check(), "the call was cancelled");
}
