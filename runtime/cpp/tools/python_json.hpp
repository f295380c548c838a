// JSON as Python's json.dumps(..., ensure_ascii=False) writes it, floating-point digits included. An integer that 64 bits
// cannot hold is binary: its digits.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace vprm::tools {

std::string python_json(const nlohmann::ordered_json &value);

}  // namespace vprm::tools
