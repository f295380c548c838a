#include "row_images.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>

#include "base/error.hpp"
#include "base64.hpp"
#include "row.hpp"

namespace vprm::tools {

namespace {

constexpr std::size_t kMostKey = 200;  // bytes of a key: far longer than any image's
constexpr std::size_t kMostName = 1000;
constexpr int kMostNesting = 4;

using Items = std::vector<Json>;

struct Patterns {
    std::string name{"(?:input_?)?(?:image|img|picture|pic|photo)s?"
                     "(?:_?(?:path|file|filename|file_?name|url|uri|bytes|base64|b64|data|list))?s?"};
    std::regex whole{name}, numbered{name + "_?([0-9]+)"};
    std::regex suggestive{"(?:^|_)(?:image|img|picture|pic|photo|screenshot|figure|diagram|chart|pixel|visual)s?"
                          "(?:_?[0-9]+)?(?:_|$)"};
    std::regex about{"_(?:ids?|types?|size|width|height|w|h|count|num|number|sources?|caption|captions|description|ocr|hash|"
                     "md5|sha[0-9]*|format|mode|index|idx|categor(?:y|ies)|class|tags?|alt|title|license|credit|tokens?|"
                     "dataset|name_list)$|^(?:num|n|has|is|no|with|total)_"};
    std::regex counts{"(?:has|with|num|n|number_of|total|count_of)_(?:image|img|picture|photo)s?|"
                      "(?:image|img|picture|photo)s?_(?:count|num|number)"};
    std::regex describes{"(?:image|img|picture|photo)s?_(?:ids?|idx|index|hash|md5|sha[0-9]*|width|height|size|w|h)"};
    std::regex url{"[A-Za-z][A-Za-z0-9+.-]{1,30}://"};
};

const Patterns &patterns() {
    static const Patterns &kPatterns = *new Patterns;
    return kPatterns;
}

// imagePath, Image-Path and IMAGE_PATH as image_path.
std::string snake(const std::string &key) {
    std::string name;
    for (std::size_t i = 0; i < key.size(); i++) {
        const char c = key[i];
        const bool is_capital = c >= 'A' && c <= 'Z';
        const char before = i > 0 ? key[i - 1] : '_';
        if (is_capital && ((before >= 'a' && before <= 'z') || (before >= '0' && before <= '9'))) name += '_';
        name += c == '-' || c == ' ' ? '_' : is_capital ? static_cast<char>(c - 'A' + 'a') : c;
    }
    return name;
}

bool is_decoded(const std::string &key) { return snake(key) == "decoded_image"; }

// The elements of a list, or the one value; without empty ones.
Items items_of(const Json &value) {
    Items items;
    for (const Json &item : value.is_array() ? value : Json::array({value}))
        if (!is_empty(item)) items.push_back(item);
    return items;
}

struct Found {
    std::string key;
    Items items;
};

// Images by key; numbered keys, in the order of their numbers, count as one.
std::vector<Found> by_key(const Json &record) {
    std::vector<Found> found;
    std::map<long, Found> numbered;
    for (const auto &entry : record.items()) {
        Items items = items_of(entry.value());
        const std::string name = snake(entry.key());
        std::smatch match;
        if (items.empty() || name.size() > kMostKey) continue;
        if (std::regex_match(name, match, patterns().numbered)) {
            const std::string digits = match[1];
            if (digits.size() > 9) throw RowError(internal::excerpt(entry.key()) + " has a number that is too long");
            const auto [place, is_new] = numbered.insert({std::stol(digits), {entry.key(), std::move(items)}});
            if (!is_new)
                throw RowError("images stand under " + place->second.key + " and " + entry.key() + ": keep one of them");
        } else if (is_image_key(entry.key())) {
            found.push_back({entry.key(), std::move(items)});
        }
    }
    if (numbered.empty()) return found;
    Found joined{numbered.begin()->second.key, {}};
    for (auto &[number, part] : numbered)
        joined.items.insert(joined.items.end(), part.items.begin(), part.items.end());
    found.push_back(std::move(joined));
    return found;
}

// Of several keys with images: all the same, or one decoded image beside its path.
Items one_of(const std::vector<Found> &found) {
    std::vector<const Found *> decoded, others;
    for (const Found &one : found) (is_decoded(one.key) ? decoded : others).push_back(&one);
    const bool are_same = !others.empty() && std::all_of(others.begin(), others.end(), [&](const Found *one) {
        return one->items == others[0]->items;
    });
    if (are_same && decoded.empty()) return others[0]->items;
    if (are_same && decoded.size() == 1 && decoded[0]->items.size() == others[0]->items.size()) return decoded[0]->items;
    std::string keys;
    for (const Found &one : found) keys += (keys.empty() ? "" : " and ") + one.key;
    throw RowError("images stand under " + internal::excerpt(keys) +
                   ", and differ: keep the one that the question is about");
}

bool names_image(const Json &value) {
    if (value.is_object()) return names_image(member(value, "path")) || names_image(member(value, "url"));
    if (!value.is_string()) return false;
    constexpr std::string_view kBlanks = " \t\n\r\f\v";
    const std::string &whole = value.get_ref<const std::string &>();
    const std::string before = whole.substr(0, whole.find('?'));
    const auto start = before.find_first_not_of(kBlanks);
    if (start == std::string::npos) return false;
    const std::string name = before.substr(start, before.find_last_not_of(kBlanks) + 1 - start);
    const auto dot = name.rfind('.');
    if (dot == std::string::npos || dot == 0 || name.find_first_of("\n\r") != std::string::npos) return false;
    const auto characters = std::count_if(name.begin(), name.begin() + static_cast<std::ptrdiff_t>(dot),
                                          [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
    if (static_cast<std::size_t>(characters) > kMostName) return false;
    static const std::set<std::string> &kEndings = *new std::set<std::string>{
        "png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "svg"};
    std::string ending = name.substr(dot + 1);
    for (char &c : ending) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    return kEndings.count(ending) > 0;
}

// Whether an object holds an image under a key of its own, at any depth.
bool nests_image(const Json &value) {
    if (value.is_array()) return std::any_of(value.begin(), value.end(), nests_image);
    if (!value.is_object()) return false;
    for (const auto &entry : value.items())
        if ((is_image_key(entry.key()) && !is_empty(entry.value())) || nests_image(entry.value())) return true;
    return false;
}

bool holds_image(const Json &value) {
    if (value.is_object()) return member(value, "bytes").is_string() && !is_empty(member(value, "bytes"));
    return value.is_string() && looks_encoded(value.get_ref<const std::string &>());
}

// Throws a RowError if a key that is not read holds an image; without any image, also if it seems to name one.
void check_no_image(const std::string &key, const Json &value, bool has_images) {
    const Items items = items_of(value);
    if (items.empty()) return;
    if (key.size() > kMostKey)
        throw RowError("the key " + internal::excerpt(key) + " is too long to be read: leave it out");
    bool holds = false, names = false, has_texts = false;
    for (const Json &item : items) {
        holds = holds || holds_image(item);
        names = names || names_image(item) || nests_image(item);
        has_texts = has_texts || item.is_string() || item.is_object();
    }
    const std::string name = snake(key);
    const bool suggests =
        has_texts && std::regex_search(name, patterns().suggestive) && !std::regex_search(name, patterns().about);
    if (holds || (!has_images && (names || suggests)))
        throw RowError(internal::excerpt(key) + " looks like an image, and images are read from image, images, image_path, "
                       "image_1 and their like: rename the key to image, or leave it out if it is not what the question is "
                       "about");
}

// Throws a RowError if a record without an image says under another key that it has one.
void check_no_image_stated(const Json &record) {
    const auto is_none = [](const Json &item) {
        if (!item.is_string()) return (item.is_number() || item.is_boolean()) && (item == 0 || item == false);
        std::string text = item.get<std::string>();
        for (char &c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        return text == "0" || text == "false" || text == "no" || text == "none";
    };
    for (const auto &entry : record.items()) {
        const std::string name = snake(entry.key());
        if (name.size() > kMostKey) continue;
        Items items = items_of(entry.value());
        items.erase(std::remove(items.begin(), items.end(), Json(-1)), items.end());
        const bool counts = std::regex_match(name, patterns().counts) && !std::all_of(items.begin(), items.end(), is_none);
        if (counts || (!items.empty() && std::regex_match(name, patterns().describes)))
            throw RowError(internal::excerpt(entry.key()) + " says that there is an image, and the row has none: give it as "
                           "image, or leave " + internal::excerpt(entry.key()) + " out if the text alone is meant");
    }
}

bool is_nothing(const Json &value) { return is_empty(value) && !value.is_array() && !value.is_object(); }

// What an object holds as its image: bytes before a path.
Json image_in_object(Json value) {
    for (int depth = 0; depth < kMostNesting; depth++) {
        if (!value.is_object()) return value;
        Json inner;
        for (const char *key : {"bytes", "path", "url", "image_url", "image", "base64", "b64_json", "data", "source",
                                "file_path", "file_name"})
            if (inner.is_null() && !is_nothing(member(value, key))) inner = member(value, key);
        if (inner.is_null()) throw RowError("an image object must have bytes, path or url");
        value = std::move(inner);
    }
    throw RowError("an image object is nested too deeply: give the bytes, the path or the data URL itself");
}

// Throws a RowError if the root ends with the folder that the path begins with, and the image is in its parent.
void check_not_doubled(std::string root, const std::string &value) {
    while (root.size() > 1 && root.back() == '/') root.pop_back();
    const std::filesystem::path folder(root), path(value);
    std::error_code problem;
    if (path.empty() || folder.filename().empty() || *path.begin() != folder.filename() ||
        std::find(path.begin(), path.end(), "..") != path.end() || std::filesystem::exists(folder / path, problem))
        return;
    if (std::filesystem::is_regular_file(folder.parent_path() / path, problem))
        throw RowError("no image file at " + (folder / path).string() + ": the path begins with " + path.begin()->string() +
                       "/ itself, so the image root is the folder above: --image-root " +
                       folder.parent_path().string());
}

RowImage image_of(const Json &given, const std::string &image_root) {
    const Json value = image_in_object(given);
    if (!value.is_string())
        throw RowError("an image must be the path of a PPM file, or base64 of one as a data URL, got " + type_of(value) +
                       "; leave image out for text only");
    const auto &text = value.get_ref<const std::string &>();
    try {
        if (looks_encoded(text)) return {false, decoded_image(text)};
    } catch (const std::runtime_error &error) {
        throw RowError(error.what());
    }
    if (std::regex_search(text.substr(0, kMostKey), patterns().url, std::regex_constants::match_continuous))
        throw RowError(internal::excerpt(text) + " is a URL: download the image and give the file's path, or its bytes");
    check_not_doubled(image_root, text);
    return {true, text[0] == '/' || image_root.empty() ? text : image_root + "/" + text};
}

}  // namespace

bool is_image_key(const std::string &key) {
    const std::string name = snake(key);
    if (name.size() > kMostKey) return false;
    return name == "decoded_image" || std::regex_match(name, patterns().whole) || std::regex_match(name, patterns().numbered);
}

std::vector<RowImage> images_of(const Json &record, const std::string &image_root, const std::set<std::string> &text_keys) {
    const std::vector<Found> found = by_key(record);
    const Items items = found.size() > 1 ? one_of(found) : found.empty() ? Items() : found[0].items;
    for (const auto &entry : record.items())
        if (text_keys.count(entry.key()) == 0 && !is_image_key(entry.key()))
            check_no_image(entry.key(), entry.value(), !found.empty());
    std::vector<RowImage> images;
    for (const Json &item : items) images.push_back(image_of(item, image_root));
    if (images.empty()) check_no_image_stated(record);
    return images;
}

PpmImage decoded(const RowImage &image) { return image.is_path ? read_ppm(image.content) : ppm_of(image.content, "image"); }

}  // namespace vprm::tools
