#include "prompt/image_markers.hpp"

#include <algorithm>

namespace vprm::internal {

namespace {

constexpr std::string_view kBeginnings = "<[!&\\";
constexpr std::size_t kMostDigits = 3, kMostSeparators = 2;

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// Reads a mark at the start of a text, ASCII letters of either case.
class Reader {
  public:
    explicit Reader(std::string_view text) : text_(text) {}

    std::size_t read() const { return at_; }

    bool take(std::string_view word) {
        if (text_.size() - at_ < word.size()) return false;
        const bool is_here = std::equal(word.begin(), word.end(), text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                        [](char wanted, char found) { return wanted == lower(found); });
        at_ += is_here ? word.size() : 0;
        return is_here;
    }

    template <typename... Words>
    bool take_one(Words... words) {
        return (take(words) || ...);
    }

    // How many characters of a set follow, at most so many.
    std::size_t take_of(std::string_view set, std::size_t most) {
        std::size_t taken = 0;
        while (taken < most && at_ < text_.size() && set.find(text_[at_]) != std::string_view::npos) at_++, taken++;
        return taken;
    }

  private:
    std::string_view text_;
    std::size_t at_ = 0;
};

// <image 1>, [picture #2], <|image_3|>; the size of the mark, or 0.
std::size_t numbered(std::string_view text, int &number) {
    Reader reader(text);
    if (!reader.take_one("<", "[")) return 0;
    reader.take("|");
    if (!reader.take_one("image", "img", "picture", "photo")) return 0;
    reader.take_of(" _:#-", kMostSeparators);
    const std::size_t start = reader.read(), digits = reader.take_of("0123456789", kMostDigits);
    if (digits == 0) return 0;
    number = std::stoi(std::string(text.substr(start, digits)));
    reader.take("|");
    reader.take("/");
    return reader.take_one(">", "]") ? reader.read() : 0;
}

// <|image_pad|>, <|img|>
std::size_t barred(std::string_view text) {
    Reader reader(text);
    if (!reader.take("<|") || !reader.take_one("image", "img")) return 0;
    if (reader.take("|>")) return reader.read();
    reader.take("_");
    return reader.take_one("pad", "placeholder", "start", "sentinel") && reader.take("|>") ? reader.read() : 0;
}

// <image>, <image_token>
std::size_t plain(std::string_view text) {
    Reader reader(text);
    if (!reader.take("<image")) return 0;
    if (reader.take(">")) return reader.read();
    reader.take("_");
    if (reader.take("soft")) {
        reader.take("_");
        return reader.take("token>") ? reader.read() : 0;
    }
    return reader.take_one("placeholder", "here", "token", "pad") && reader.take(">") ? reader.read() : 0;
}

std::size_t other(std::string_view text) {
    Reader reader(text);
    return reader.take_one("<|vision_start|>", "<|vision_pad|>", "<image/>", "<image />", "[image]", "[img]",
                           "&lt;image&gt;", "\\includegraphics")
               ? reader.read()
               : 0;
}

// Markdown's ![alternative](path
std::size_t markdown(std::string_view text) {
    constexpr std::string_view kOpening = "![";
    if (text.substr(0, kOpening.size()) != kOpening) return 0;
    const std::size_t end = text.find_first_of("[]\n", kOpening.size());
    if (end == std::string_view::npos || text.substr(end, 2) != "](" || end + 2 == text.size()) return 0;
    constexpr std::string_view kNoPath = " \t\n\r\f\v()";
    return kNoPath.find(text[end + 2]) == std::string_view::npos ? kOpening.size() : 0;
}

// Qwen-VL's <img>path.png</img>
std::size_t tagged(std::string_view text) {
    Reader reader(text);
    if (!reader.take("<img>")) return 0;
    const std::size_t end = text.find_first_of("<>\n", reader.read());
    if (end == std::string_view::npos || !Reader(text.substr(end)).take("</img>")) return 0;
    const std::string_view path = text.substr(reader.read(), end - reader.read());
    const std::size_t dot = path.rfind('.');
    if (dot == std::string_view::npos || dot == 0) return 0;
    Reader ending(path.substr(dot));
    const bool is_image = ending.take_one(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff", ".tif");
    return is_image && dot + ending.read() == path.size() ? reader.read() : 0;
}

}  // namespace

std::vector<ImageMark> foreign_image_marks(std::string_view question, std::size_t most) {
    std::vector<ImageMark> marks;
    for (std::size_t start = 0; start < question.size() && marks.size() < most; start++) {
        const std::string_view rest = question.substr(start);
        if (kBeginnings.find(rest[0]) == std::string_view::npos) continue;
        int number = 0;
        std::size_t size = numbered(rest, number);
        const bool has_number = size > 0;
        for (const auto &kind : {barred, plain, other, markdown, tagged})
            if (size == 0) size = kind(rest);
        if (size == 0) continue;
        const std::string text(rest.substr(0, size));
        if (text != "<image>") marks.push_back({text, has_number ? std::optional<int>(number) : std::nullopt});
        start += size - 1;
    }
    return marks;
}

std::optional<std::string> foreign_image_mark(std::string_view question) {
    const std::vector<ImageMark> marks = foreign_image_marks(question, 1);
    return marks.empty() ? std::nullopt : std::optional<std::string>(marks[0].text);
}

}  // namespace vprm::internal
