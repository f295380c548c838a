#include "text/pattern.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/utf8.hpp"
#include "text/unicode.hpp"

namespace vprm::internal {

namespace {

constexpr std::size_t kNoMatch = std::u32string::npos;
constexpr std::size_t kMostItems = 32;       // of one alternative: far above any tokenizer's
constexpr std::size_t kMostRepeats = 10000;  // that a quantifier {m,n} may ask for
constexpr char32_t kLongS = 0x17F, kKelvin = 0x212A;

// A character and everything that is the same under (?i), as Oniguruma folds it.
std::u32string case_variants(char32_t letter) {
    const char32_t lower = letter >= U'A' && letter <= U'Z' ? letter + 32 : letter;
    if (lower < U'a' || lower > U'z') return {letter};
    std::u32string variants{lower, lower - 32};
    if (lower == U's') variants.push_back(kLongS);
    if (lower == U'k') variants.push_back(kKelvin);
    return variants;
}

}  // namespace

class Pattern::Parser {
  public:
    Parser(const std::u32string &text, std::string_view shown) : text_(text), shown_(shown) {}

    std::vector<Sequence> alternatives(bool in_group) {
        std::vector<Sequence> found(1);
        while (!is_at_end() && !(in_group && peek() == U')')) {
            if (peek() == U'|') {
                at_++;
                found.emplace_back();
            } else if (!in_group && is_next(U"(?i:")) {
                add_case_insensitive(found.back());
            } else {
                found.back().push_back(item(in_group));
            }
        }
        return found;
    }

    // Alternatives of a (?i:...) group become alternatives of the whole: it has to be an alternative by itself.
    std::vector<Sequence> whole() {
        std::vector<Sequence> found = alternatives(false);
        std::vector<Sequence> flat;
        for (std::size_t i = 0; i < found.size(); i++) {
            const auto group = groups_.begin() + static_cast<std::ptrdiff_t>(next_group_);
            if (group != groups_.end() && found[i].empty()) {
                flat.insert(flat.end(), group->begin(), group->end());
                next_group_++;
            } else {
                flat.push_back(std::move(found[i]));
            }
        }
        for (const Sequence &sequence : flat) check_sequence(sequence);
        return flat;
    }

  private:
    [[noreturn]] void refuse(const std::string &what) const {
        throw unsupported("tokenizer.json: the pattern " + excerpt(shown_) + " has " + what +
                          ", which this library cannot execute: score with the Python package");
    }

    bool is_at_end() const { return at_ == text_.size(); }
    char32_t peek() const { return text_[at_]; }
    bool is_next(const std::u32string &part) const { return text_.compare(at_, part.size(), part) == 0; }

    char32_t take() {
        if (is_at_end()) refuse("an unfinished part");
        return text_[at_++];
    }

    void add_case_insensitive(Sequence &sequence) {
        if (!sequence.empty()) refuse("a (?i:...) group after other items");
        at_ += 4;
        is_folding_ = true;
        std::vector<Sequence> inside = alternatives(true);
        is_folding_ = false;
        if (is_at_end() || take() != U')') refuse("an unfinished group");
        if (!is_at_end() && peek() != U'|') refuse("something after a (?i:...) group");
        groups_.push_back(std::move(inside));
    }

    Item item(bool in_group) {
        Item made;
        if (peek() == U'(') {
            if (in_group) refuse("a group within a group");
            if (is_next(U"(?!"))
                made.kind = Item::Kind::kNotFollowedBy;
            else if (is_next(U"(?="))
                made.kind = Item::Kind::kFollowedBy;
            else
                refuse("a group of another kind than (?i:, (?= and (?!");
            at_ += 3;
            made.atom = atom();
            if (take() != U')') refuse("a lookahead of more than one character");
            return made;
        }
        made.atom = atom();
        quantify(made);
        return made;
    }

    void quantify(Item &made) {
        if (is_at_end()) return;
        switch (peek()) {
            case U'?': made.least = 0, made.most = 1, at_++; break;
            case U'*': made.least = 0, made.most = kNoMatch, at_++; break;
            case U'+': made.least = 1, made.most = kNoMatch, at_++; break;
            case U'{': at_++, counted(made); break;
            default: return;
        }
        if (!is_at_end() && (peek() == U'?' || peek() == U'+' || peek() == U'*' || peek() == U'{'))
            refuse("a lazy, possessive or double quantifier");
    }

    std::size_t number() {
        std::size_t value = 0, digits = 0;
        for (; !is_at_end() && peek() >= U'0' && peek() <= U'9' && value <= kMostRepeats; digits++)
            value = value * 10 + (take() - U'0');
        if (digits == 0 || value > kMostRepeats) refuse("a quantifier without small numbers");
        return value;
    }

    void counted(Item &made) {
        made.least = made.most = number();
        const char32_t next = take();
        if (next == U',') {
            made.most = number();
            if (take() != U'}') refuse("an unfinished quantifier");
        } else if (next != U'}') {
            refuse("an unfinished quantifier");
        }
        if (made.most < made.least || made.most == 0) refuse("an empty quantifier");
    }

    Atom atom() {
        Atom made;
        const char32_t first = take();
        if (first == U'[') {
            if (!is_at_end() && peek() == U'^') {
                made.is_negated = true;
                at_++;
            }
            while (true) {
                const char32_t next = take();
                if (next == U']') break;
                if (next == U'[' || next == U'-' || next == U'&' || next == U'^') refuse("a range or set within a class");
                next == U'\\' ? add_escape(made) : add_literal(made, next);
            }
            if (made.literals.empty() && made.classes.empty()) refuse("an empty class");
            return made;
        }
        if (first == U'\\')
            add_escape(made);
        else if (std::u32string(U".^$*+?{}()|]").find(first) != std::u32string::npos)
            refuse("the special character \"" + std::string(1, static_cast<char>(first)) + "\"");
        else
            add_literal(made, first);
        return made;
    }

    void add_literal(Atom &made, char32_t character) const {
        if (is_folding_ && character >= 0x80) refuse("a letter outside ASCII in (?i:...)");
        made.literals += is_folding_ ? case_variants(character) : std::u32string{character};
    }

    void add_escape(Atom &made) {
        const char32_t kind = take();
        switch (kind) {
            case U'r': made.literals += U'\r'; return;
            case U'n': made.literals += U'\n'; return;
            case U't': made.literals += U'\t'; return;
            case U's': made.classes.push_back({Class::kSpace, false}); return;
            case U'S': made.classes.push_back({Class::kSpace, true}); return;
            case U'p': add_property(made); return;
            default: break;
        }
        const bool is_word = kind >= 0x80 || (kind >= U'0' && kind <= U'9') || (kind >= U'A' && kind <= U'Z') ||
                             (kind >= U'a' && kind <= U'z');
        if (is_word) refuse("the escape \\" + std::string(1, kind < 0x80 ? static_cast<char>(kind) : '?'));
        made.literals += kind;
    }

    void add_property(Atom &made) {
        if (is_next(U"{L}"))
            made.classes.push_back({Class::kLetter, false});
        else if (is_next(U"{N}"))
            made.classes.push_back({Class::kNumber, false});
        else
            refuse("another property than \\p{L} and \\p{N}");
        at_ += 3;
    }

    void check_sequence(const Sequence &sequence) const {
        if (sequence.size() > kMostItems) refuse("an alternative of very many parts");
        const bool takes_a_character = std::any_of(sequence.begin(), sequence.end(), [](const Item &item) {
            return item.kind == Item::Kind::kRepeated && item.least > 0;
        });
        if (!takes_a_character) refuse("an alternative that may match nothing");
    }

    const std::u32string &text_;
    std::string_view shown_;
    std::size_t at_ = 0;
    bool is_folding_ = false;
    std::vector<std::vector<Sequence>> groups_;
    std::size_t next_group_ = 0;
};

Pattern::Pattern(std::string_view expression) {
    const std::u32string text = characters_of(expression);
    alternatives_ = Parser(text, expression).whole();
}

bool Pattern::Atom::contains(char32_t character) const {
    if (literals.find(character) != std::u32string::npos) return !is_negated;
    for (const ClassItem &item : classes) {
        bool is_in = false;
        switch (item.kind) {
            case Class::kLetter: is_in = is_letter(character); break;
            case Class::kNumber: is_in = is_number(character); break;
            case Class::kSpace: is_in = is_space(character); break;
        }
        if (is_in != item.is_negated) return !is_negated;
    }
    return is_negated;
}

std::size_t Pattern::match(const Sequence &items, std::size_t at, const std::u32string &text, std::size_t start) const {
    if (at == items.size()) return start;
    const Item &item = items[at];
    const auto fits = [&](std::size_t position) { return position < text.size() && item.atom.contains(text[position]); };
    if (item.kind != Item::Kind::kRepeated) {
        const bool holds = fits(start) == (item.kind == Item::Kind::kFollowedBy);
        return holds ? match(items, at + 1, text, start) : kNoMatch;
    }
    std::size_t end = start;
    while (end - start < item.most && fits(end)) end++;
    if (at + 1 == items.size()) return end - start >= item.least ? end : kNoMatch;
    for (; end - start >= item.least; end--) {
        const std::size_t matched = match(items, at + 1, text, end);
        if (matched != kNoMatch) return matched;
        if (end == start) break;
    }
    return kNoMatch;
}

std::vector<std::pair<std::size_t, std::size_t>> Pattern::pieces(const std::u32string &text) const {
    std::vector<std::pair<std::size_t, std::size_t>> found;
    std::size_t done = 0;
    for (std::size_t start = 0; start < text.size();) {
        std::size_t end = kNoMatch;
        for (const Sequence &items : alternatives_)
            if ((end = match(items, 0, text, start)) != kNoMatch) break;
        if (end == kNoMatch) {
            start++;
            continue;
        }
        if (done < start) found.emplace_back(done, start);
        found.emplace_back(start, end);
        done = start = end;
    }
    if (done < text.size()) found.emplace_back(done, text.size());
    return found;
}

}  // namespace vprm::internal
