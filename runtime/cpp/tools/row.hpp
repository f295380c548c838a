// A row of `vprm score --input -` with `question` and `responses`, as docs/wire.md has it.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "row_images.hpp"
#include "row_json.hpp"

namespace vprm::tools {

// What is wrong with a row.
class RowError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Row {
    std::vector<RowImage> images;
    std::string question;
    Json responses;
    std::optional<int> max_steps, max_tiles;  // of any size
    Json labels = Json::object();             // that go into the answer as they are
    std::vector<std::string> unread;          // keys that nothing is read from
};

// The row's own id, or its number. Throws a RowError if it is of another type.
Json id_of(const Json &record, std::size_t number);

// What is wrong with a response that is neither text nor a list of texts; empty if nothing is.
std::string problem_of(const Json &response);

// Throws a RowError. Relative image paths start at `image_root`.
Row row_of(const Json &record, const std::string &image_root);

}  // namespace vprm::tools
