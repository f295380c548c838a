// Marks for images that other models' prompts have, such as `<image 1>`: only `<image>` is one for this model.
//
// Source: the Python package's `prompt/image_markers.py`, which says why a question without images must have none.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace vprm::internal {

// The first mark of a question that is not `<image>`.
std::optional<std::string> foreign_image_mark(std::string_view question);

}  // namespace vprm::internal
