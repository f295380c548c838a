#include "row.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.hpp"
#include "row_labels.hpp"

namespace vprm::tools {

namespace {

using Keys = std::set<std::string>;

constexpr int kMostLimit = 1'000'000'000;

const Keys &limit_keys() {
    static const Keys &kKeys = *new Keys{"max_steps", "max_tiles"};
    return kKeys;
}

// Keys of questions and responses: a row of one kind has some of them.
const Keys &content_keys() {
    static const Keys &kKeys = *new Keys{"question", "responses", "response", "steps_with_score", "conversations", "chosen",
                                         "rejected"};
    return kKeys;
}

// Every key that is read, apart from images'.
const Keys &known_keys() {
    static const Keys &kKeys = *[] {
        auto *keys = new Keys{"id", "answer", "correct", "process_correctness", "policy_model", "data_source"};
        keys->insert(content_keys().begin(), content_keys().end());
        keys->insert(limit_keys().begin(), limit_keys().end());
        return keys;
    }();
    return kKeys;
}

std::string text(const Json &record, const char *key) {
    const Json &value = member(record, key);
    if (!value.is_string()) throw RowError(std::string(key) + " must be text, got " + type_of(value));
    return value.get<std::string>();
}

std::optional<int> limit(const Json &record, const char *key) {
    const Json value = whole(member(record, key));
    if (value.is_null()) return std::nullopt;
    if (!is_integer(value)) throw RowError(std::string(key) + " must be an integer, got " + type_of(value));
    if (value.is_binary()) return value.get_binary()[0] == '-' ? -kMostLimit : kMostLimit;
    if (value < -kMostLimit || value > kMostLimit) return value < 0 ? -kMostLimit : kMostLimit;
    return value.get<int>();
}

// Refuses a limit under another spelling, and what is given for all rows or is a bundle's: it decides scores.
void check_option_keys(const Json &record) {
    static const std::map<std::string, std::string> &kMeant = *new std::map<std::string, std::string>{
        {"maxstep", "max_steps"}, {"maxtile", "max_tiles"}, {"maxnum", "max_tiles"}, {"maxdynamicpatch", "max_tiles"},
        {"maxpatche", "max_tiles"}, {"aggregate", ""}, {"stepseparator", ""}, {"dropemptystep", ""}, {"systemmessage", ""},
        {"systemprompt", ""}, {"system", ""}, {"minnum", ""}, {"mindynamicpatch", ""}, {"minpatche", ""},
        {"usethumbnail", ""}};
    for (const auto &item : record.items()) {
        std::string letters;
        for (const char c : item.key())
            if (c != '_' && c != '-' && c != ' ') letters += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        if (!letters.empty() && letters.back() == 's') letters.pop_back();
        const auto meant = kMeant.find(letters);
        if (meant == kMeant.end() || is_empty(item.value()) || limit_keys().count(item.key()) > 0) continue;
        if (!meant->second.empty()) throw RowError(item.key() + " is not read: write " + meant->second);
        throw RowError(item.key() + " is not read from a row: it is an option for all rows, or the bundle's");
    }
}

bool has_all(const Json &record, std::initializer_list<const char *> keys) {
    return std::all_of(keys.begin(), keys.end(), [&](const char *key) { return !member(record, key).is_null(); });
}

// Other kinds of rows, of data sets, are refused by name.
void check_kind(const Json &record) {
    if (has_all(record, {"question", "responses"})) return;
    if (has_all(record, {"question", "steps_with_score"}) || has_all(record, {"question", "chosen", "rejected"}) ||
        has_all(record, {"question", "response"}) || has_all(record, {"conversations"}))
        throw RowError("this program reads rows with question and responses alone: for the kinds of data sets use vprm score");
    throw RowError("the row is of no known kind: give question and responses");
}

}  // namespace

std::string problem_of(const Json &response) {
    constexpr char kExpected[] = "a response is a string or a list of strings, got ";
    if (response.is_string()) return "";
    if (!response.is_array()) return kExpected + type_of(response);
    for (const Json &step : response)
        if (!step.is_string()) return kExpected + ("a step of " + type_of(step));
    return "";
}

Json id_of(const Json &record, std::size_t number) {
    const Json id = record.is_object() ? whole(member(record, "id")) : Json();
    if (id.is_null()) return number;
    if (!id.is_string() && !is_integer(id)) throw RowError("id is " + type_of(id) + ": give a string or an integer");
    return id;
}

Row row_of(const Json &record, const std::string &image_root) {
    if (!record.is_object()) throw RowError("a row is a JSON object, got " + type_of(record));
    check_option_keys(record);
    check_kind(record);
    Row row;
    row.responses = member(record, "responses");
    if (!row.responses.is_array() || row.responses.empty())
        throw RowError("responses must be a list with at least one response");
    row.question = text(record, "question");
    row.images = images_of(record, image_root, known_keys());
    row.max_steps = limit(record, "max_steps");
    row.max_tiles = limit(record, "max_tiles");
    row.labels = labels_of(record, row.responses);
    for (const auto &item : record.items()) {
        const std::string &key = item.key();
        if (key == "question" || key == "responses" || is_image_key(key)) continue;
        if (content_keys().count(key) > 0 && !is_empty(item.value()))
            row.unread.push_back(key + " (another key is read instead)");
        else if (known_keys().count(key) == 0)
            row.unread.push_back(internal::excerpt(key));
    }
    return row;
}

}  // namespace vprm::tools
