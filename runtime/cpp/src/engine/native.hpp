// The operators' C sources, which the Python package compiles too.
#pragma once

#include <string>

extern "C" {
#include "cpu.h"
}

namespace vprm::internal {

// The level that the operators run at, and what it means, for people. Throws an engine error if $VPRM_NATIVE_LEVEL names
// none, or one that the CPU does not have.
std::string native_description();

}  // namespace vprm::internal
