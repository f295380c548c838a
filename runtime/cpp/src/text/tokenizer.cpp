#include "text/tokenizer.hpp"

#include <array>
#include <utility>

#include "base/error.hpp"
#include "base/utf8.hpp"
#include "text/tokenizer_reader.hpp"
#include "text/unicode.hpp"

namespace vprm::internal {

namespace {

// Byte-level BPE writes each byte as a visible character: GPT-2's table (openai/gpt-2, src/encoder.py).
std::array<std::string, 256> byte_characters() {
    std::array<std::string, 256> table;
    char32_t next = 256;
    for (char32_t byte = 0; byte < 256; byte++) {
        const bool is_visible = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        append_utf8(table[byte], is_visible ? byte : next++);
    }
    return table;
}

std::string utf8_of(const std::u32string &characters, std::size_t start, std::size_t end) {
    std::string text;
    for (std::size_t i = start; i < end; i++) append_utf8(text, characters[i]);
    return text;
}

std::string replaced(const std::string &text, const std::string &pattern, const std::string &content) {
    std::string result;
    std::size_t done = 0;
    for (auto at = text.find(pattern); at != std::string::npos; at = text.find(pattern, done)) {
        result.append(text, done, at - done);
        result += content;
        done = at + pattern.size();
    }
    result.append(text, done, std::string::npos);
    return result;
}

}  // namespace

Tokenizer::Tokenizer(std::string_view json_text, std::set<TokenId> control)
    : byte_characters_(byte_characters()), bpe_(Bpe::Vocabulary{}), control_(std::move(control)) {
    const TokenizerReader reader(json_text);
    bpe_ = reader.model();
    reader.read_normalizer(*this);
    reader.read_pre_tokenizer(*this);
    reader.read_added_tokens(*this);
}

std::string Tokenizer::normalised(std::string_view text) const {
    std::string result(text);
    for (const Normalizer &step : normalizers_) {
        switch (step.kind) {
            case Normalizer::Kind::kReplace: result = replaced(result, step.pattern, step.content); break;
            case Normalizer::Kind::kPrepend:
                if (!result.empty()) result = step.content + result;
                break;
            case Normalizer::Kind::kNfc: {
                const std::u32string composed = nfc(characters_of(result));
                result = utf8_of(composed, 0, composed.size());
                break;
            }
        }
    }
    return result;
}

void Tokenizer::encode_byte_level(std::string_view piece, std::vector<std::uint32_t> &ids) const {
    std::string visible;
    for (const char byte : piece) visible += byte_characters_[static_cast<unsigned char>(byte)];
    bpe_.encode(visible, ids);
}

void Tokenizer::encode_piece(std::string_view text, std::vector<std::uint32_t> &ids) const {
    std::vector<std::string> pieces{std::string(text)};
    for (const Pattern &pattern : patterns_) {
        std::vector<std::string> smaller;
        for (const std::string &piece : pieces) {
            const std::u32string characters = characters_of(piece);
            for (const auto &[start, end] : pattern.pieces(characters))
                smaller.push_back(utf8_of(characters, start, end));
        }
        pieces = std::move(smaller);
    }
    for (const std::string &piece : pieces) is_byte_level_ ? encode_byte_level(piece, ids) : bpe_.encode(piece, ids);
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
    if (const std::size_t valid = valid_utf8_prefix(text); valid != text.size())
        throw input_error("the text is not valid UTF-8 from byte " + std::to_string(valid) + " on: clean it");
    std::vector<std::uint32_t> ids;
    for (const TextPart &part : raw_tokens_.parts(text)) {
        if (part.token >= 0) {
            ids.push_back(static_cast<std::uint32_t>(part.token));
            continue;
        }
        const std::string stretch = normalised(text.substr(part.start, part.end - part.start));
        for (const TextPart &inner : normalised_tokens_.parts(stretch)) {
            if (inner.token >= 0)
                ids.push_back(static_cast<std::uint32_t>(inner.token));
            else
                encode_piece(std::string_view(stretch).substr(inner.start, inner.end - inner.start), ids);
        }
    }
    std::vector<TokenId> result(ids.begin(), ids.end());
    for (const TokenId id : result)
        if (control_.count(id) != 0)
            throw input_error("the text would become the control token " + std::to_string(id) +
                              ": remove it from the text");
    return result;
}

}  // namespace vprm::internal
