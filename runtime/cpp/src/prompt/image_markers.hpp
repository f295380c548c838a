// Marks for images that other models' prompts have, such as `<image 1>`: only `<image>` is one for this model.
//
// Source: the Python package's `prompt/image_markers.py`, which says why a question without images must have none.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vprm::internal {

struct ImageMark {
    std::string text;
    std::optional<int> number;  // of <image 1> and its like
};

// Marks of a question, in order and at most so many, but for `<image>`.
std::vector<ImageMark> foreign_image_marks(std::string_view question, std::size_t most = std::string_view::npos);

// The first of them.
std::optional<std::string> foreign_image_mark(std::string_view question);

}  // namespace vprm::internal
