#include "text/bpe.hpp"

#include <cstdio>
#include <queue>

#include "base/error.hpp"
#include "base/utf8.hpp"

namespace vprm::internal {

namespace {

std::uint64_t pair_key(std::uint32_t first, std::uint32_t second) { return std::uint64_t{first} << 32 | second; }

// A merge that may be done: the lowest rank first, of equals the leftmost.
struct Candidate {
    std::uint32_t rank;
    std::int32_t position;
    std::uint32_t result;

    bool operator<(const Candidate &other) const {  // std::priority_queue takes the greatest
        return rank != other.rank ? rank > other.rank : position > other.position;
    }
};

}  // namespace

void Bpe::set_options(const Options &options) {
    options_ = options;
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
        const auto found = vocabulary_.find(name);
        byte_ids_[static_cast<std::size_t>(byte)] = found == vocabulary_.end() ? -1 : std::int64_t{found->second};
    }
}

void Bpe::add_merge(const std::string &first, const std::string &second) {
    const auto id_of = [&](const std::string &text) {
        const auto found = vocabulary_.find(text);
        if (found == vocabulary_.end())
            throw bundle_error("tokenizer.json: a merge needs \"" + excerpt(text) +
                               "\", which is not in the vocabulary: export the bundle again");
        return found->second;
    };
    merges_[pair_key(id_of(first), id_of(second))] = {next_rank_++, id_of(first + second)};
}

const Bpe::Merge *Bpe::merge_of(std::uint32_t first, std::uint32_t second) const {
    const auto found = merges_.find(pair_key(first, second));
    return found == merges_.end() ? nullptr : &found->second;
}

std::vector<Bpe::Symbol> Bpe::symbols_of(std::string_view piece) const {
    std::vector<Symbol> symbols;
    symbols.reserve(piece.size());
    const auto add = [&](std::uint32_t id) {
        const auto at = static_cast<std::int32_t>(symbols.size());
        if (at > 0) symbols.back().next = at;
        symbols.push_back({id, at - 1, -1, true});
    };
    bool is_unknown_pending = false;  // an unknown token is added before the next known one, not before fallback bytes
    for (std::size_t offset = 0; offset < piece.size();) {
        const std::size_t start = offset;
        next_character(piece, offset);
        const std::string character(piece.substr(start, offset - start));
        const auto found = vocabulary_.find(character);
        if (found != vocabulary_.end()) {
            if (is_unknown_pending) add(*options_.unknown);
            is_unknown_pending = false;
            add(found->second);
            continue;
        }
        bool has_all_bytes = options_.has_byte_fallback;
        for (const char byte : character) has_all_bytes = has_all_bytes && byte_ids_[static_cast<unsigned char>(byte)] >= 0;
        if (has_all_bytes) {
            for (const char byte : character)
                add(static_cast<std::uint32_t>(byte_ids_[static_cast<unsigned char>(byte)]));
        } else if (options_.unknown) {
            if (is_unknown_pending && !options_.is_unknown_fused) add(*options_.unknown);
            is_unknown_pending = true;
        }
    }
    if (is_unknown_pending) add(*options_.unknown);
    return symbols;
}

void Bpe::merge_all(std::vector<Symbol> &symbols) const {
    std::priority_queue<Candidate> queue;
    const auto consider = [&](std::int32_t position) {
        if (position < 0 || symbols[position].next < 0) return;
        const Merge *merge = merge_of(symbols[position].id, symbols[symbols[position].next].id);
        if (merge != nullptr) queue.push({merge->rank, position, merge->result});
    };
    for (std::size_t position = 0; position + 1 < symbols.size(); position++)
        consider(static_cast<std::int32_t>(position));
    while (!queue.empty()) {
        const Candidate top = queue.top();
        queue.pop();
        Symbol &left = symbols[top.position];
        if (!left.is_alive || left.next < 0) continue;
        Symbol &right = symbols[left.next];
        const Merge *merge = merge_of(left.id, right.id);
        if (merge == nullptr || merge->result != top.result) continue;  // one of the two was merged meanwhile
        left.id = top.result;
        left.next = right.next;
        right.is_alive = false;
        if (left.next >= 0) symbols[left.next].previous = top.position;
        consider(left.previous);
        consider(top.position);
    }
}

void Bpe::encode(std::string_view piece, std::vector<std::uint32_t> &ids) const {
    if (options_.ignores_merges) {
        const auto found = vocabulary_.find(std::string(piece));
        if (found != vocabulary_.end()) {
            ids.push_back(found->second);
            return;
        }
    }
    std::vector<Symbol> symbols = symbols_of(piece);
    merge_all(symbols);
    for (const Symbol &symbol : symbols)
        if (symbol.is_alive) ids.push_back(symbol.id);
}

}  // namespace vprm::internal
