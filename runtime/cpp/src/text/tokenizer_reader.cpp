#include "text/tokenizer_reader.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "bundle/strict_json.hpp"

namespace vprm::internal {

namespace {

using Json = nlohmann::json;

constexpr char kGpt2[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::uint64_t kMostId = 0x7FFFFFFF;

[[noreturn]] void damaged(const std::string &what) {
    throw bundle_error("tokenizer.json: " + what + ": export the bundle again");
}

[[noreturn]] void refuse(const std::string &what) {
    throw unsupported("tokenizer.json has " + excerpt(what) +
                      ", which this library cannot execute: score with the Python package");
}

const Json &member(const Json &object, const char *key) {
    if (!object.is_object()) damaged(std::string("something else than an object around \"") + key + "\"");
    static const Json &kNull = *new Json();  // never destroyed: there is no order in which a host may exit
    const auto found = object.find(key);
    return found == object.end() ? kNull : *found;
}

std::string text_of(const Json &object, const char *key) {
    const Json &value = member(object, key);
    if (!value.is_string()) damaged(std::string(key) + " is not text");
    return value.get<std::string>();
}

bool flag_of(const Json &object, const char *key, bool absent = false) {
    const Json &value = member(object, key);
    if (value.is_null()) return absent;
    if (!value.is_boolean()) damaged(std::string(key) + " is neither true nor false");
    return value.get<bool>();
}

std::uint32_t id_of(const Json &value) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMostId) damaged("a token's id is no small integer");
    return value.get<std::uint32_t>();
}

bool is_given(const Json &value) { return !value.is_null() && !(value.is_string() && value.get<std::string>().empty()); }

// "a b" or ["a", "b"].
std::pair<std::string, std::string> merge_of(const Json &entry) {
    if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string())
        return {entry[0].get<std::string>(), entry[1].get<std::string>()};
    if (entry.is_string()) {
        const auto text = entry.get<std::string>();
        const auto space = text.find(' ');
        if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
            return {text.substr(0, space), text.substr(space + 1)};
    }
    damaged("a merge is not a pair of texts");
}

// A step of a sequence, or the only one.
std::vector<Json> steps_of(const Json &value, const char *sequence_key) {
    if (value.is_null()) return {};
    if (text_of(value, "type") != "Sequence") return {value};
    const Json &steps = member(value, sequence_key);
    if (!steps.is_array()) damaged(std::string(sequence_key) + " is not a list");
    return {steps.begin(), steps.end()};
}

}  // namespace

TokenizerReader::TokenizerReader(std::string_view json_text) {
    try {
        document_ = strict_json<Json>(json_text);
    } catch (const JsonError &error) {
        damaged(std::string("it is not JSON (") + error.what() + ")");
    }
    if (!document_.is_object()) damaged("it is not an object");
}

Bpe TokenizerReader::model() const {
    const Json &model = member(document_, "model");
    if (text_of(model, "type") != "BPE") refuse("a model of type " + text_of(model, "type"));
    for (const char *key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"})
        if (is_given(member(model, key))) refuse(key);
    const Json &entries = member(model, "vocab");
    if (!entries.is_object() || entries.empty()) damaged("vocab is not an object with tokens");
    Bpe::Vocabulary vocabulary;
    vocabulary.reserve(entries.size());
    for (const auto &entry : entries.items()) vocabulary.emplace(entry.key(), id_of(entry.value()));
    Bpe::Options options;
    if (const Json &unknown = member(model, "unk_token"); !unknown.is_null()) {
        const auto found = vocabulary.find(text_of(model, "unk_token"));
        if (found == vocabulary.end()) damaged("unk_token is not in the vocabulary");
        options.unknown = found->second;
    }
    options.is_unknown_fused = flag_of(model, "fuse_unk");
    options.has_byte_fallback = flag_of(model, "byte_fallback");
    options.ignores_merges = flag_of(model, "ignore_merges");
    Bpe bpe(std::move(vocabulary));
    bpe.set_options(options);
    const Json &merges = member(model, "merges");
    if (!merges.is_array()) damaged("merges is not a list");
    for (const Json &entry : merges) {
        const auto [first, second] = merge_of(entry);
        bpe.add_merge(first, second);
    }
    return bpe;
}

void TokenizerReader::read_normalizer(Tokenizer &tokenizer) const {
    using Kind = Tokenizer::Normalizer::Kind;
    for (const Json &step : steps_of(member(document_, "normalizer"), "normalizers")) {
        const std::string type = text_of(step, "type");
        if (type == "NFC") {
            tokenizer.normalizers_.push_back({Kind::kNfc, "", ""});
        } else if (type == "Prepend") {
            tokenizer.normalizers_.push_back({Kind::kPrepend, "", text_of(step, "prepend")});
        } else if (type == "Replace") {
            const Json &pattern = member(step, "pattern");
            if (!member(pattern, "String").is_string()) refuse("a Replace normalizer with a regular expression");
            std::string text = text_of(pattern, "String");
            if (text.empty()) refuse("a Replace normalizer of an empty text");
            tokenizer.normalizers_.push_back({Kind::kReplace, std::move(text), text_of(step, "content")});
        } else {
            refuse("a normalizer of type " + type);
        }
    }
}

void TokenizerReader::read_pre_tokenizer(Tokenizer &tokenizer) const {
    for (const Json &step : steps_of(member(document_, "pre_tokenizer"), "pretokenizers")) {
        const std::string type = text_of(step, "type");
        if (tokenizer.is_byte_level_) refuse("a pre-tokenizer after ByteLevel");
        if (type == "Split") {
            const Json &pattern = member(step, "pattern");
            if (!member(pattern, "Regex").is_string()) refuse("a Split pre-tokenizer without a regular expression");
            if (text_of(step, "behavior") != "Isolated" || flag_of(step, "invert"))
                refuse("a Split pre-tokenizer that is inverted or not \"Isolated\"");
            tokenizer.patterns_.emplace_back(text_of(pattern, "Regex"));
        } else if (type == "ByteLevel") {
            if (flag_of(step, "add_prefix_space", true)) refuse("add_prefix_space of a ByteLevel pre-tokenizer");
            if (flag_of(step, "use_regex", true)) tokenizer.patterns_.emplace_back(kGpt2);
            tokenizer.is_byte_level_ = true;
        } else {
            refuse("a pre-tokenizer of type " + type);
        }
    }
}

void TokenizerReader::read_added_tokens(Tokenizer &tokenizer) const {
    const Json &added = member(document_, "added_tokens");
    if (!added.is_null() && !added.is_array()) damaged("added_tokens is not a list");
    std::set<std::string> special;  // by content, as in `tokenizers`
    for (const Json &token : added)
        if (flag_of(token, "special")) special.insert(text_of(token, "content"));
    const auto &vocabulary = tokenizer.bpe_.vocabulary();
    for (const Json &token : added) {
        const std::string content = text_of(token, "content");
        const std::uint32_t id = id_of(member(token, "id"));
        if (content.empty()) damaged("an added token is empty");
        for (const char *key : {"single_word", "lstrip", "rstrip"})
            if (flag_of(token, key) && special.count(content) == 0)
                refuse("the added token \"" + content + "\" with " + key);
        const auto known = vocabulary.find(content);
        if (known != vocabulary.end() && known->second != id)
            damaged("the added token \"" + excerpt(content) + "\" has another id than in the vocabulary");
        const bool is_special = special.count(content) != 0;
        if (flag_of(token, "normalized"))
            tokenizer.normalised_tokens_.add(tokenizer.normalised(content), id, is_special);
        else
            tokenizer.raw_tokens_.add(content, id, is_special);
    }
}

}  // namespace vprm::internal
