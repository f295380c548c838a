// A row of `vprm score --input -`, as docs/wire.md has it, with PPM files as images.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "ppm.hpp"

namespace vprm::tools {

using Json = nlohmann::ordered_json;

// What is wrong with a row.
class RowError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Row {
    std::vector<PpmImage> images;
    std::string question;
    Json responses;
    int max_steps = 0, max_tiles = 0;  // 0: no limit of the row's own
    Json labels = Json::object();      // that go into the answer as they are
};

// The row's own id, or its number. Throws a RowError if it is of another type.
Json id_of(const Json &record, std::size_t number);

// What is wrong with a response that is neither text nor a list of texts; empty if nothing is.
std::string problem_of(const Json &response);

// Throws a RowError. Relative image paths start at `image_root`.
Row row_of(const Json &record, const std::string &image_root);

}  // namespace vprm::tools
