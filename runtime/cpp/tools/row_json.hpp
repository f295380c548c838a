// A row's line of JSON as the Python package reads it, and what its values are called there.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace vprm::tools {

// NaN and infinities are floats, as in Python. An integer that 64 bits cannot hold is binary: its digits.
using Json = nlohmann::ordered_json;

// Why a line is no row: what follows "line 3" in a message.
class LineError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The value of a line of UTF-8. Throws a LineError for what Python's json module refuses, a key that is there twice,
// more than 64 levels, and half a surrogate pair.
Json row_json(std::string_view line);

// The value under a key, or null.
const Json &member(const Json &record, const char *key);

// The type as Python's json module makes it.
std::string type_of(const Json &value);

bool is_integer(const Json &value);
bool is_nan(const Json &value);

// An integer for a float that is one, null for NaN, else the value: columns of integers with missing values are floats.
Json whole(const Json &value);

// Null, "", NaN, an empty list, and an object with nothing in it.
bool is_empty(const Json &value);

}  // namespace vprm::tools
