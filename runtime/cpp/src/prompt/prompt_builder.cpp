#include "prompt/prompt_builder.hpp"

#include <algorithm>

#include "base/error.hpp"
#include "base/utf8.hpp"
#include "prompt/image_markers.hpp"
#include "text/unicode.hpp"

namespace vprm::internal {

namespace {

constexpr std::string_view kPlaceholder = "<image>";
constexpr std::string_view kQuestion = "{question}", kImages = "{images}", kStep = "{step}";

void append(Ids &ids, const Ids &more) { ids.insert(ids.end(), more.begin(), more.end()); }

std::vector<std::string> split(std::string_view text, std::string_view separator) {
    std::vector<std::string> parts;
    std::size_t start = 0;
    for (auto at = text.find(separator); at != std::string_view::npos; at = text.find(separator, start)) {
        parts.emplace_back(text.substr(start, at - start));
        start = at + separator.size();
    }
    parts.emplace_back(text.substr(start));
    return parts;
}

std::string joined(const std::vector<std::string> &parts, std::size_t start, std::size_t end,
                   const std::string &separator) {
    std::string text = parts[start];
    for (std::size_t i = start + 1; i < end; i++) text += separator + parts[i];
    return text;
}

// A mark for an image without any image says that one was lost on the way.
void check_no_lost_image(std::string_view question) {
    if (const std::optional<std::string> mark = foreign_image_mark(question))
        throw input_error("the question has " + *mark +
                          " and there is no image: give the image, or take the mark out of the question if the text alone "
                          "is meant");
}

std::string replaced_all(std::string text, std::string_view what, const std::string &with) {
    for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size()))
        text.replace(at, what.size(), with);
    return text;
}

}  // namespace

std::vector<std::string> split_steps(const Response &response, const ScoreRule &rule, int max_steps) {
    std::vector<std::string> steps;
    if (const auto *text = std::get_if<std::string>(&response))
        steps = split(*text, rule.step_joiner);
    else
        steps = std::get<std::vector<std::string>>(response);
    if (steps.empty())
        throw input_error("the response has no steps: give a string or a list with at least one step");
    if (max_steps == 0) return steps;
    const auto most = static_cast<std::size_t>(max_steps);
    const std::size_t size = (steps.size() + most - 1) / most;
    std::vector<std::string> groups;
    for (std::size_t start = 0; start < steps.size(); start += size)
        groups.push_back(joined(steps, start, std::min(start + size, steps.size()), rule.step_joiner));
    return groups;
}

PromptBuilder::PromptBuilder(const Tokenizer &tokenizer, const Manifest &manifest)
    : tokenizer_(tokenizer), control_(manifest.tokens), rule_(manifest.score_rule),
      tokens_per_tile_(manifest.model.tokens_per_tile), newline_(tokenizer.encode("\n")),
      reply_(tokenizer.encode(manifest.score_rule.reply)) {
    assistant_header_.push_back(control_.im_start);
    append(assistant_header_, tokenizer.encode("assistant\n"));
    if (control_.bos) system_turn_.push_back(*control_.bos);
    open_turn(system_turn_, "system", {manifest.system_message});
    close_turn(system_turn_);
    marked_start_ = system_turn_;  // a rule with a marker: no user text
    open_turn(marked_start_, "user", {});
}

Ids PromptBuilder::prefix(std::string_view question, const std::vector<int> &tiles) const {
    Ids ids = rule_.marker_id ? marked_start_ : system_turn_;
    open_turn(ids, rule_.marker_id ? "assistant" : "user", first_turn(question, "", tiles));
    return ids;
}

TokenisedPrompt PromptBuilder::build(std::string_view question, const std::vector<int> &tiles,
                                     const std::vector<std::string> &steps) const {
    if (rule_.marker_id) return build_marked(question, tiles, steps);
    TokenisedPrompt prompt;
    prompt.ids = system_turn_;
    for (std::size_t number = 0; number < steps.size(); number++) {
        const std::vector<Piece> pieces =
            number == 0 ? first_turn(question, steps[0], tiles) : std::vector<Piece>{steps[number]};
        open_turn(prompt.ids, "user", pieces);
        // A turn without text has no end: the original takes '' for "no message yet".
        const auto *text = pieces.size() == 1 ? std::get_if<std::string>(&pieces[0]) : nullptr;
        if (text == nullptr || !text->empty()) close_turn(prompt.ids);
        append(prompt.ids, assistant_header_);
        prompt.score_positions.push_back(static_cast<std::int64_t>(prompt.ids.size()) - 1);
        append(prompt.ids, reply_);
        close_turn(prompt.ids);
    }
    return prompt;
}

TokenisedPrompt PromptBuilder::build_marked(std::string_view question, const std::vector<int> &tiles,
                                            const std::vector<std::string> &steps) const {
    TokenisedPrompt prompt;
    prompt.ids = marked_start_;
    open_turn(prompt.ids, "assistant", first_turn(question, steps[0], tiles));
    for (std::size_t number = 0; number < steps.size(); number++) {
        if (number > 0) append(prompt.ids, tokenizer_.encode(rule_.step_joiner + steps[number]));
        prompt.score_positions.push_back(static_cast<std::int64_t>(prompt.ids.size()));
        prompt.ids.push_back(*rule_.marker_id);
    }
    close_turn(prompt.ids);
    return prompt;
}

std::vector<PromptBuilder::Piece> PromptBuilder::first_turn(std::string_view question, std::string_view step,
                                                            const std::vector<int> &tiles) const {
    if (const std::size_t valid = valid_utf8_prefix(question); valid != question.size())
        throw input_error("the question is not valid UTF-8 from byte " + std::to_string(valid) + " on: clean it");
    if (is_blank(question))
        throw input_error("the question is empty: give the text that the responses answer");
    const std::size_t placeholders = split(question, kPlaceholder).size() - 1;
    if (placeholders != 0 && placeholders != tiles.size())  // the original asserts that both are equal
        throw input_error("the question has " + std::to_string(placeholders) + " <image> placeholders for " +
                          std::to_string(tiles.size()) +
                          " images: give one for each image, or none to put all images in front");
    if (tiles.empty()) check_no_lost_image(question);
    std::string in_front;
    for (std::size_t i = 0; placeholders == 0 && i < tiles.size(); i++) in_front += std::string(kPlaceholder) + "\n";
    const std::vector<std::string> halves = split(rule_.first_turn, kQuestion);
    const bool names_images = halves[0].find(kImages) != std::string::npos;
    const std::string head = names_images ? replaced_all(halves[0], kImages, in_front) : halves[0] + in_front;
    std::vector<std::string> parts = split(head + std::string(question), kPlaceholder);
    if (parts.size() != tiles.size() + 1)
        throw bundle_error("manifest.json: score_rule: first_turn has <image> placeholders of its own");
    parts.back() += halves[1].substr(0, halves[1].size() - kStep.size());
    parts.back() += step;
    std::vector<Piece> pieces{parts[0]};
    for (std::size_t i = 0; i < tiles.size(); i++) {
        pieces.emplace_back(tiles[i]);
        pieces.emplace_back(std::move(parts[i + 1]));
    }
    return pieces;
}

void PromptBuilder::open_turn(Ids &ids, const char *role, const std::vector<Piece> &pieces) const {
    ids.push_back(control_.im_start);
    std::string text = std::string(role) + "\n";
    for (const Piece &piece : pieces) {
        if (const auto *part = std::get_if<std::string>(&piece)) {
            text += *part;
            continue;
        }
        append(ids, tokenizer_.encode(text));
        text.clear();
        ids.push_back(control_.img_start);
        ids.insert(ids.end(), static_cast<std::size_t>(std::get<int>(piece) * tokens_per_tile_), control_.img_context);
        ids.push_back(control_.img_end);
    }
    append(ids, tokenizer_.encode(text));
}

void PromptBuilder::close_turn(Ids &ids) const {
    ids.push_back(control_.im_end);
    append(ids, newline_);
}

}  // namespace vprm::internal
