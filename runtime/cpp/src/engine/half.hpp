// IEEE half precision: between graphs whose floating types differ.
#pragma once

#include <cstdint>

namespace vprm::internal {

float float_from_half(std::uint16_t half);
std::uint16_t half_from_float(float value);  // to nearest, ties to even

}  // namespace vprm::internal
