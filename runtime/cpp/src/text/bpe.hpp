// Byte-pair encoding of one piece of text: `tokenizers`' BPE model, without dropout and word affixes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace vprm::internal {

class Bpe {
  public:
    struct Options {
        std::optional<std::uint32_t> unknown;
        bool is_unknown_fused = false, has_byte_fallback = false, ignores_merges = false;
    };
    using Vocabulary = std::unordered_map<std::string, std::uint32_t>;

    explicit Bpe(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}

    void set_options(const Options &options);

    // Pairs are merged in the order in which they are added. Throws a bundle error if a text is not in the vocabulary.
    void add_merge(const std::string &first, const std::string &second);

    // Appends the ids of a piece of valid UTF-8.
    void encode(std::string_view piece, std::vector<std::uint32_t> &ids) const;

    const Vocabulary &vocabulary() const { return vocabulary_; }

  private:
    struct Merge {
        std::uint32_t rank, result;
    };
    struct Symbol {
        std::uint32_t id;
        std::int32_t previous, next;
        bool is_alive;
    };

    std::vector<Symbol> symbols_of(std::string_view piece) const;
    void merge_all(std::vector<Symbol> &symbols) const;
    const Merge *merge_of(std::uint32_t first, std::uint32_t second) const;

    Vocabulary vocabulary_;
    std::unordered_map<std::uint64_t, Merge> merges_;
    std::uint32_t next_rank_ = 0;
    Options options_;
    std::array<std::int64_t, 256> byte_ids_{};  // of byte fallback; -1: not in the vocabulary
};

}  // namespace vprm::internal
