#include "engine/half.hpp"

#include <cmath>
#include <cstring>

namespace vprm::internal {

float float_from_half(std::uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    float value;
    if (exponent == 31)
        value = fraction != 0 ? NAN : INFINITY;
    else if (exponent == 0)
        value = std::ldexp(static_cast<float>(fraction), -24);
    else
        value = std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    return half & 0x8000 ? -value : value;
}

std::uint16_t half_from_float(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
    const float size = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7E00;
    if (size >= 65520.0f) return sign | 0x7C00;  // halfway between the largest half and 2^16
    if (size == 0.0f) return sign;  // which has no exponent
    int exponent = 0;
    std::frexp(size, &exponent);  // size < 2^exponent
    const int unit = exponent - 11 < -24 ? -24 : exponent - 11;
    const float units = std::nearbyint(std::ldexp(size, -unit));  // exact scaling; rounds ties to even
    const auto count = static_cast<std::uint32_t>(units);
    // Counting on from the smallest normal, halves are consecutive numbers, subnormals first.
    const std::uint32_t code = unit == -24 ? count : (static_cast<std::uint32_t>(unit + 24) << 10) + count;
    return static_cast<std::uint16_t>(sign | code);
}

}  // namespace vprm::internal
