// Images as text, as the Python package's `images/encoded.py` has them.
#pragma once

#include <string>
#include <string_view>

namespace vprm::tools {

// Whether a text is an encoded image rather than a path.
bool looks_encoded(std::string_view text);

// The bytes of base64 text or of a data URL. Throws std::runtime_error if it is not valid.
std::string decoded_image(std::string_view text);

}  // namespace vprm::tools
