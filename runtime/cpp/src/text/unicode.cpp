#include "text/unicode.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "base/utf8.hpp"

namespace vprm::internal {

namespace {

struct Range {
    std::uint32_t first, last;
};
struct Decomposition {
    std::uint32_t code;
    std::uint16_t start, length;
};
struct Composition {
    std::uint32_t first, second, composite;
};
struct CombiningClass {
    std::uint32_t code;
    std::uint8_t order;
};

#include "text/unicode_tables.inc"

// Hangul syllables are made of leading consonant, vowel and optional trailing consonant (Unicode, section 3.12).
namespace hangul {
constexpr char32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTrails = 0x11A7;
constexpr char32_t kLeadCount = 19, kVowelCount = 21, kTrailCount = 28;
constexpr char32_t kSyllableCount = kLeadCount * kVowelCount * kTrailCount;
}  // namespace hangul

template <std::size_t N>
bool is_in(const Range (&ranges)[N], char32_t character) {
    const auto *after = std::upper_bound(std::begin(ranges), std::end(ranges), character,
                                         [](char32_t value, const Range &range) { return value < range.first; });
    return after != std::begin(ranges) && character <= std::prev(after)->last;
}

int combining_class(char32_t character) {
    const auto *found = std::lower_bound(std::begin(kCombiningClasses), std::end(kCombiningClasses), character,
                                         [](const CombiningClass &entry, char32_t code) { return entry.code < code; });
    return found != std::end(kCombiningClasses) && found->code == character ? found->order : 0;
}

void append_decomposed(std::u32string &text, char32_t character) {
    using namespace hangul;
    if (character >= kSyllables && character < kSyllables + kSyllableCount) {
        const char32_t index = character - kSyllables, trail = index % kTrailCount;
        text.push_back(kLeads + index / (kVowelCount * kTrailCount));
        text.push_back(kVowels + index / kTrailCount % kVowelCount);
        if (trail != 0) text.push_back(kTrails + trail);
        return;
    }
    const auto *found = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), character,
                                         [](const Decomposition &entry, char32_t code) { return entry.code < code; });
    if (found != std::end(kDecompositions) && found->code == character)
        text.append(kDecomposed + found->start, found->length);
    else
        text.push_back(character);
}

// The character that two compose to, or 0.
char32_t composite(char32_t first, char32_t second) {
    using namespace hangul;
    if (first >= kLeads && first < kLeads + kLeadCount && second >= kVowels && second < kVowels + kVowelCount)
        return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTrailCount;
    if (first >= kSyllables && first < kSyllables + kSyllableCount && (first - kSyllables) % kTrailCount == 0 &&
        second > kTrails && second < kTrails + kTrailCount)
        return first + (second - kTrails);
    const auto before = [](const Composition &entry, const Composition &key) {
        return entry.first != key.first ? entry.first < key.first : entry.second < key.second;
    };
    const Composition key{first, second, 0};
    const auto *found = std::lower_bound(std::begin(kCompositions), std::end(kCompositions), key, before);
    const bool is_there = found != std::end(kCompositions) && found->first == first && found->second == second;
    return is_there ? found->composite : 0;
}

void put_marks_in_order(std::u32string &text) {
    for (std::size_t start = 0; start < text.size();) {
        if (combining_class(text[start]) == 0) {
            start++;
            continue;
        }
        std::size_t end = start;
        while (end < text.size() && combining_class(text[end]) != 0) end++;
        std::stable_sort(text.begin() + static_cast<std::ptrdiff_t>(start), text.begin() + static_cast<std::ptrdiff_t>(end),
                         [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
        start = end;
    }
}

std::u32string composed(const std::u32string &text) {
    std::u32string result;
    std::size_t starter = std::u32string::npos;
    int last_class = 0;
    for (const char32_t character : text) {
        const int order = combining_class(character);
        // A mark is blocked by one of its own or a higher class between it and the starter.
        const bool is_adjacent = starter != std::u32string::npos && starter + 1 == result.size();
        if (starter != std::u32string::npos && (is_adjacent || (last_class != 0 && last_class < order))) {
            if (const char32_t joined = composite(result[starter], character)) {
                result[starter] = joined;
                continue;
            }
        }
        if (order == 0) starter = result.size();
        last_class = order;
        result.push_back(character);
    }
    return result;
}

}  // namespace

bool is_letter(char32_t character) { return is_in(kLetters, character); }
bool is_number(char32_t character) { return is_in(kNumbers, character); }
bool is_space(char32_t character) { return is_in(kSpaces, character); }

bool is_blank(std::string_view text) {
    for (std::size_t offset = 0; offset < text.size();)
        if (!is_in(kPythonSpaces, next_character(text, offset))) return false;
    return true;
}

std::u32string nfc(const std::u32string &text) {
    if (std::all_of(text.begin(), text.end(), [](char32_t character) { return character < 0x300; })) return text;
    std::u32string decomposed;
    decomposed.reserve(text.size());
    for (const char32_t character : text) append_decomposed(decomposed, character);
    put_marks_in_order(decomposed);
    return composed(decomposed);
}

}  // namespace vprm::internal
