// Labels that are kept beside the scores, as the Python package's `datasets/row_labels.py` checks them.
#pragma once

#include <nlohmann/json.hpp>

namespace vprm::tools {

// The labels of a row with these responses, or what is wrong with them as its `label_error`.
nlohmann::ordered_json labels_of(const nlohmann::ordered_json &record, const nlohmann::ordered_json &responses);

}  // namespace vprm::tools
