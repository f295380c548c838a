#include "row_notes.hpp"

#include <algorithm>
#include <iostream>

#include "prompt/image_markers.hpp"
#include "python_json.hpp"

namespace vprm::tools {

namespace {

constexpr std::size_t kMostTopics = 1000;
constexpr std::size_t kMostIds = 1 << 20;  // that a stream without an end remembers
constexpr std::string_view kBlanks = " \t\n\r\f\v";

// Why the question's marks for images do not fit so many images beside them; empty if they do.
std::string remark_on_marks(const std::string &question, std::size_t images) {
    const auto marks = internal::foreign_image_marks(question);
    if (marks.empty() || images == 0) return "";
    std::set<int> numbers;
    for (const auto &mark : marks) {
        if (!mark.number) return mark.text + " in the question is text to this model: write <image> for an image";
        numbers.insert(*mark.number);
    }
    const bool fit = *numbers.rbegin() <= static_cast<long long>(images);
    if (fit && (numbers.size() == images || question.find("<image>") != std::string::npos)) return "";
    return "the question's marks for images (" + marks.back().text +
           " ...) are not as many as the images: they are text";
}

// A list of texts as JSON or Python writes it: a column of lists that went through a CSV file.
bool is_written_list(std::string_view text) {
    if (text.size() < 4 || text[0] != '[') return false;
    const auto quote = text.find_first_not_of(kBlanks, 1);
    if (quote == std::string_view::npos || (text[quote] != '"' && text[quote] != '\'') || text.substr(quote + 1, 1) == "]")
        return false;
    const std::string_view end = text.substr(text.size() - 2);
    return end == "\"]" || end == "']";
}

}  // namespace

void RowNotes::add(const Row &row, const std::string &where) {
    for (const std::string &key : row.unread) once(where + ": " + key + " is not read", key);
    const std::string remark = remark_on_marks(row.question, row.images.size());
    if (!remark.empty()) once(where + ": " + remark, remark);
}

void RowNotes::add_id(const Json &id, const std::string &where) {
    if (has_repeated_ || ids_.size() >= kMostIds || ids_.insert(python_json(id)).second) return;
    has_repeated_ = true;
    ids_.clear();
    std::cerr << where << " has an id that an earlier row has: tell rows apart by `row`" << std::endl;
}

void RowNotes::add_splitting(const Json &responses, const Json &results) {
    for (std::size_t i = 0; i < results.size(); i++) {
        const std::size_t steps = results[i]["steps"].size();
        is_split_ = is_split_ || steps > 1;
        if (!responses[i].is_string() || steps == 0) continue;
        std::string_view text = responses[i].get_ref<const std::string &>();
        const auto start = text.find_first_not_of(kBlanks);
        text = start == std::string_view::npos ? "" : text.substr(start, text.find_last_not_of(kBlanks) + 1 - start);
        texts_++;
        with_breaks_ += text.find('\n') != std::string_view::npos ? 1 : 0;
        with_escapes_ += text.find("\\n\\n") != std::string_view::npos ? 1 : 0;
        written_lists_ += is_written_list(text) ? 1 : 0;
    }
}

void RowNotes::say_splitting() {
    std::string line;
    if (written_lists_ > 0)
        line = std::to_string(written_lists_) + " responses look like lists written as text and are scored as they are: give "
               "lists, or the texts inside (in a table, read the column with json.loads)";
    else if (is_split_ || texts_ == 0)
        return;
    else if (with_breaks_ > 0)
        line = "every response is one step although it has line breaks: steps are split at blank lines ('\\n\\n'). If steps "
               "are lines, give each response as a list of them";
    else if (with_escapes_ > 0)
        line = "every response is one step and has a backslash with an n instead of a line break";
    if (!line.empty()) once(line, "splitting");
}

void RowNotes::once(const std::string &line, const std::string &topic) {
    if (said_.size() < kMostTopics && said_.insert(topic).second) std::cerr << line << std::endl;
}

}  // namespace vprm::tools
