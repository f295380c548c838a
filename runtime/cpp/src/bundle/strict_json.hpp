// JSON from strangers: one value of valid UTF-8, no duplicate keys, no depth that could exhaust a stack.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace vprm::internal {

class JsonError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

constexpr int kMostJsonDepth = 200;

// With an ordered Json, keys keep their order. `most_depth` is how deeply lists and objects may be nested. Throws a
// JsonError that says what is wrong.
template <typename Json>
Json strict_json(std::string_view text, int most_depth = kMostJsonDepth);

extern template nlohmann::json strict_json(std::string_view text, int most_depth);
extern template nlohmann::ordered_json strict_json(std::string_view text, int most_depth);

}  // namespace vprm::internal
