#include "row.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "base64.hpp"
#include "row_labels.hpp"

namespace vprm::tools {

namespace {

constexpr double kMostWhole = 9e15;  // whole numbers up to here are exact as float64
constexpr std::size_t kMostPlainText = 200;

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

const Json &member(const Json &record, const char *key) {
    static const Json &kNull = *new Json();
    const auto found = record.find(key);
    return found == record.end() ? kNull : *found;
}

// The type as Python's json module makes it.
std::string type_of(const Json &value) {
    switch (value.type()) {
        case Json::value_t::null: return "NoneType";
        case Json::value_t::boolean: return "bool";
        case Json::value_t::number_integer:
        case Json::value_t::number_unsigned: return "int";
        case Json::value_t::number_float: return "float";
        case Json::value_t::object: return "dict";
        case Json::value_t::array: return "list";
        default: return "str";
    }
}

// An integer for a float that is one: columns of integers with missing values become floats.
Json whole(const Json &value) {
    if (!value.is_number_float()) return value;
    const auto number = value.get<double>();
    return std::nearbyint(number) == number && std::fabs(number) < kMostWhole ? Json(static_cast<std::int64_t>(number)) : value;
}

std::string text(const Json &record, const char *key) {
    const Json &value = member(record, key);
    if (!value.is_string()) throw RowError(std::string(key) + " must be text, got " + type_of(value));
    return value.get<std::string>();
}

int limit(const Json &record, const char *key) {
    const Json value = whole(member(record, key));
    if (value.is_null()) return 0;
    if (!value.is_number_integer()) throw RowError(std::string(key) + " must be an integer, got " + type_of(value));
    if (value < 1) throw RowError(std::string(key) + " must be at least 1, got " + value.dump());
    return value > 1'000'000'000 ? 1'000'000'000 : value.get<int>();
}

bool is_empty(const Json &value) {
    if (value.is_object() || value.is_array()) return std::all_of(value.begin(), value.end(), is_empty);
    return value.is_null() || (value.is_string() && value.get_ref<const std::string &>().empty());
}

PpmImage image_of(const Json &value, const std::string &image_root) {
    if (value.is_object()) {
        for (const char *key : {"bytes", "path", "url"})
            if (!is_empty(member(value, key))) return image_of(member(value, key), image_root);
        throw RowError("an image object must have bytes, path or url");
    }
    if (!value.is_string())
        throw RowError(std::string("an image must be the path of a PPM file, or base64 of one as a data URL, got ") +
                       type_of(value) + "; leave image out for text only");
    const auto path = value.get<std::string>();
    try {
        if (looks_encoded(path)) return ppm_of(decoded_image(path), "image");
        if (contains(path, "://")) throw RowError("an image is a URL: download it and give the file's path, or its bytes");
        return read_ppm(path[0] == '/' || image_root.empty() ? path : image_root + "/" + path);
    } catch (const RowError &) {
        throw;
    } catch (const std::runtime_error &error) {
        throw RowError(error.what());
    }
}

// Under image or images: one, or a list; empty ones are none.
std::vector<PpmImage> images_of(const Json &record, const std::string &image_root) {
    Json found = Json::array();
    for (const char *key : {"image", "images"}) {
        const Json &value = member(record, key);
        Json items = Json::array();
        for (const Json &item : value.is_array() ? value : Json::array({value}))
            if (!is_empty(item)) items.push_back(item);
        if (items.empty()) continue;
        if (!found.empty() && found != items) throw RowError("images are under image and images, and differ: keep one");
        found = std::move(items);
    }
    std::vector<PpmImage> images;
    for (const Json &item : found) images.push_back(image_of(item, image_root));
    return images;
}

// A key that is not read may be there if nothing about it suggests that it decides a score or holds an image.
void check_unread(const std::string &key, const Json &value) {
    std::string letters;
    for (const char c : key)
        if (c != '_' && c != '-' && c != ' ') letters += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    for (const char *word : {"image", "img", "pic", "photo", "screenshot", "figure", "diagram", "chart", "pixel", "visual",
                             "maxstep", "maxtile", "aggregate", "separator", "emptystep", "response", "conversation",
                             "steps", "chosen", "rejected"})
        if (contains(letters, word))
            throw RowError("this program does not read the key " + key + ": leave it out, or use vprm score");
    const bool is_plain = value.is_number() || value.is_boolean() ||
                          (value.is_string() && value.get_ref<const std::string &>().size() <= kMostPlainText &&
                           !looks_encoded(value.get_ref<const std::string &>()) && !contains(value.get_ref<const std::string &>(), "."));
    if (!is_plain)
        throw RowError("this program does not read the key " + key + ", which might be an image: leave it out, or use vprm score");
}

void check_keys(const Json &record) {
    static const std::set<std::string> &kKnown = *new std::set<std::string>{
        "id",     "image",   "images",       "question",    "responses",          "max_steps", "max_tiles",
        "answer", "correct", "policy_model", "data_source", "process_correctness"};
    for (const auto &item : record.items())
        if (kKnown.count(item.key()) == 0 && !is_empty(item.value())) check_unread(item.key(), item.value());
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
    if (!id.is_string() && !id.is_number_integer())
        throw RowError(std::string("id is ") + type_of(id) + ": give a string or an integer");
    return id;
}

Row row_of(const Json &record, const std::string &image_root) {
    if (!record.is_object()) throw RowError(std::string("a row is a JSON object, got ") + type_of(record));
    check_keys(record);
    Row row;
    row.question = text(record, "question");
    row.responses = member(record, "responses");
    if (!row.responses.is_array() || row.responses.empty())
        throw RowError("responses must be a list with at least one response");
    row.max_steps = limit(record, "max_steps");
    row.max_tiles = limit(record, "max_tiles");
    row.images = images_of(record, image_root);
    row.labels = labels_of(record, row.responses);
    return row;
}

}  // namespace vprm::tools
