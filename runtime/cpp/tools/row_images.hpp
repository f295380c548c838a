// The images of a row: under which keys they are looked for, and what is refused by name. Source: the Python package's
// `datasets/row_images.py`, which says why.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "ppm.hpp"
#include "row_json.hpp"

namespace vprm::tools {

// The path of a file, or a file's bytes.
struct RowImage {
    bool is_path;
    std::string content;
};

bool is_image_key(const std::string &key);

// A record's images in order; relative paths start at `image_root`. `text_keys` hold texts and labels. Throws a RowError
// if images are under several keys, in a form that is not known, or under a key that looks like an image's.
std::vector<RowImage> images_of(const Json &record, const std::string &image_root, const std::set<std::string> &text_keys);

// Throws std::runtime_error if it is no PPM image, or cannot be read.
PpmImage decoded(const RowImage &image);

}  // namespace vprm::tools
