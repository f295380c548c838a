#include "text/added_tokens.hpp"

namespace vprm::internal {

void AddedTokens::add(const std::string &content, std::uint32_t id, bool is_special) {
    std::size_t node = 0;
    for (const char byte : content) {
        const auto found = nodes_[node].next.find(byte);
        if (found != nodes_[node].next.end()) {
            node = found->second;
            continue;
        }
        const std::size_t made = nodes_.size();
        nodes_[node].next.emplace(byte, made);
        nodes_.emplace_back();
        node = made;
    }
    nodes_[node].token = id;
    nodes_[node].is_special = is_special;
}

std::vector<TextPart> AddedTokens::parts(std::string_view text) const {
    std::vector<TextPart> found;
    std::size_t text_start = 0;
    for (std::size_t start = 0; start < text.size();) {
        std::size_t node = 0, longest = 0, end = start;
        for (std::size_t at = start; at < text.size(); at++) {
            const auto next = nodes_[node].next.find(text[at]);
            if (next == nodes_[node].next.end()) break;
            node = next->second;
            if (nodes_[node].token >= 0) longest = node, end = at + 1;
        }
        if (end == start) {
            start++;
            continue;
        }
        if (!nodes_[longest].is_special) {
            if (text_start < start) found.push_back({text_start, start});
            found.push_back({start, end, nodes_[longest].token});
            text_start = end;
        }
        start = end;
    }
    if (text_start < text.size()) found.push_back({text_start, text.size()});
    return found;
}

}  // namespace vprm::internal
