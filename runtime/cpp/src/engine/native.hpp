// The operators' C sources, which the Python package compiles too.
#pragma once

extern "C" {
#include "attention.h"
}
