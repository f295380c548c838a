#include "row_json.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <set>

#include "base/error.hpp"
#include "base/utf8.hpp"

namespace vprm::tools {

namespace {

constexpr int kMostDepth = 64;            // of nested lists and objects
constexpr std::size_t kMostDigits = 4300;  // of an integer, as Python
constexpr char32_t kFirstHigh = 0xD800, kFirstLow = 0xDC00, kLastLow = 0xDFFF;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

[[noreturn]] void fail(const std::string &why) {
    throw LineError(" is not JSON (" + why + "): write one object for each line");
}

Json integer(const std::string &digits) {
    errno = 0;
    const long long value = std::strtoll(digits.c_str(), nullptr, 10);
    return errno == 0 ? Json(value) : Json::binary({digits.begin(), digits.end()});
}

class Parser {
  public:
    explicit Parser(std::string_view text) : text_(text) {}

    Json document() {
        Json found = value(0);
        if (peek() != '\0' || at_ != text_.size()) fail("there is more after the value");
        if (has_half_) throw LineError(" has half a surrogate pair: write such characters whole");
        return found;
    }

  private:
    // The next character after blanks; NUL at the end.
    char peek() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
            at_++;
        return at_ < text_.size() ? text_[at_] : '\0';
    }

    bool take(std::string_view word) {
        const bool is_here = text_.substr(at_, word.size()) == word;
        at_ += is_here ? word.size() : 0;
        return is_here;
    }

    Json value(int depth) {
        const char first = peek();
        if (first == '{' || first == '[') {
            if (depth == kMostDepth)
                throw LineError(" is nested more than " + std::to_string(kMostDepth) + " levels deep: flatten it");
            at_++;
            return first == '{' ? object(depth + 1) : array(depth + 1);
        }
        if (first == '"') return string();
        if (take("null")) return nullptr;
        if (take("true")) return true;
        if (take("false")) return false;
        if (take("NaN")) return std::numeric_limits<double>::quiet_NaN();
        if (take("Infinity")) return std::numeric_limits<double>::infinity();
        if (take("-Infinity")) return -std::numeric_limits<double>::infinity();
        return number();
    }

    Json object(int depth) {
        Json found = Json::object();
        std::set<std::string> keys;
        if (peek() == '}') return at_++, found;
        while (true) {
            if (peek() != '"') fail("a key is missing");
            const std::string key = string();
            if (!keys.insert(key).second) fail("the key '" + internal::excerpt(key) + "' is there twice");
            if (peek() != ':') fail("a colon is missing");
            at_++;
            found.get_ref<Json::object_t &>().emplace_back(key, value(depth));
            const char next = peek();
            at_++;
            if (next == '}') return found;
            if (next != ',') fail("a comma or } is missing");
        }
    }

    Json array(int depth) {
        Json found = Json::array();
        if (peek() == ']') return at_++, found;
        while (true) {
            found.push_back(value(depth));
            const char next = peek();
            at_++;
            if (next == ']') return found;
            if (next != ',') fail("a comma or ] is missing");
        }
    }

    Json number() {
        const std::size_t start = at_;
        const auto digits = [&] {
            const std::size_t first = at_;
            while (at_ < text_.size() && is_digit(text_[at_])) at_++;
            return at_ - first;
        };
        take("-");
        if (!take("0") && digits() == 0) fail("a value is missing");
        const std::size_t whole_end = at_;
        if (take(".") && digits() == 0) at_ = whole_end;
        const std::size_t fraction_end = at_;
        if (take("e") || take("E")) {
            if (!take("-")) take("+");
            if (digits() == 0) at_ = fraction_end;
        }
        const std::string text(text_.substr(start, at_ - start));
        if (at_ != whole_end) return std::strtod(text.c_str(), nullptr);
        if (whole_end - start > kMostDigits + (text[0] == '-' ? 1 : 0)) fail("a number has too many digits");
        return integer(text);
    }

    std::string string() {
        std::string found;
        for (at_++; at_ < text_.size(); at_++) {
            const char c = text_[at_];
            if (c == '"') return at_++, found;
            if (static_cast<unsigned char>(c) < 0x20) fail("a text has a control character");
            if (c == '\\')
                escape(found);
            else
                found += c;
        }
        fail("a text has no end");
    }

    // Of an escape that begins here; ends on its last character.
    void escape(std::string &found) {
        constexpr std::string_view kShort = "\"\\/bfnrt", kMeant = "\"\\/\b\f\n\r\t";
        const char kind = ++at_ < text_.size() ? text_[at_] : '\0';
        if (const auto place = kShort.find(kind); kind != '\0' && place != std::string_view::npos) {
            found += kMeant[place];
            return;
        }
        if (kind != 'u') fail("a text has an unknown escape");
        char32_t character = unit();
        if (character >= kFirstHigh && character < kFirstLow && text_.substr(at_ + 1, 2) == "\\u") {
            const std::size_t before = at_;
            at_ += 2;
            const char32_t low = unit();
            if (low >= kFirstLow && low <= kLastLow)
                character = 0x10000 + ((character - kFirstHigh) << 10) + (low - kFirstLow);
            else
                at_ = before;
        }
        has_half_ = has_half_ || (character >= kFirstHigh && character <= kLastLow);
        internal::append_utf8(found, character);
    }

    // The four hexadecimal digits after the u here.
    char32_t unit() {
        char32_t value = 0;
        for (int i = 0; i < 4; i++) {
            const char c = ++at_ < text_.size() ? text_[at_] : '\0';
            const char lower = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
            if (!is_digit(c) && !(lower >= 'a' && lower <= 'f')) fail("a text has an escape of fewer than four digits");
            value = value << 4 | static_cast<char32_t>(is_digit(c) ? c - '0' : lower - 'a' + 10);
        }
        return value;
    }

    std::string_view text_;
    std::size_t at_ = 0;
    bool has_half_ = false;
};

}  // namespace

Json row_json(std::string_view line) {
    constexpr std::string_view kMark = "\xEF\xBB\xBF";  // of UTF-8
    if (line.substr(0, kMark.size()) == kMark) line.remove_prefix(kMark.size());
    if (internal::valid_utf8_prefix(line) != line.size()) fail("it is not UTF-8 text");
    return Parser(line).document();
}

const Json &member(const Json &record, const char *key) {
    static const Json &kNull = *new Json();
    const auto found = record.find(key);
    return found == record.end() ? kNull : *found;
}

std::string type_of(const Json &value) {
    switch (value.type()) {
        case Json::value_t::null: return "NoneType";
        case Json::value_t::boolean: return "bool";
        case Json::value_t::number_float: return "float";
        case Json::value_t::object: return "dict";
        case Json::value_t::array: return "list";
        case Json::value_t::string: return "str";
        default: return "int";
    }
}

bool is_integer(const Json &value) { return value.is_number_integer() || value.is_binary(); }

bool is_nan(const Json &value) { return value.is_number_float() && std::isnan(value.get<double>()); }

Json whole(const Json &value) {
    if (!value.is_number_float()) return value;
    const double number = value.get<double>();
    if (std::isnan(number)) return nullptr;
    if (!std::isfinite(number) || std::nearbyint(number) != number) return value;
    char digits[400];  // 309 at most
    std::snprintf(digits, sizeof digits, "%.0f", number);
    return integer(digits);
}

bool is_empty(const Json &value) {
    if (value.is_object()) return std::all_of(value.begin(), value.end(), is_empty);
    if (value.is_array()) return value.empty();
    return value.is_null() || is_nan(value) || (value.is_string() && value.get_ref<const std::string &>().empty());
}

}  // namespace vprm::tools
