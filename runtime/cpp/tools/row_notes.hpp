// What a user should know of rows beside their errors, each said once on stderr: as the Python package's `RowNotes` and
// `SplittingWatch` (datasets/row_notes.py, prompt/steps.py).
#pragma once

#include <set>
#include <string>
#include <unordered_set>

#include "row.hpp"

namespace vprm::tools {

class RowNotes {
  public:
    // Says keys that are not read and image marks that do not fit; `where` names the row.
    void add(const Row &row, const std::string &where);

    // Says the first time that an id repeats.
    void add_id(const Json &id, const std::string &where);

    // Takes note of how a row's responses were split; `results` is its answer's.
    void add_splitting(const Json &responses, const Json &results);

    // Says that no response was split although they have line breaks, or what else is odd about all.
    void say_splitting();

  private:
    void once(const std::string &line, const std::string &topic);

    std::set<std::string> said_;
    std::unordered_set<std::string> ids_;
    bool has_repeated_ = false, is_split_ = false;
    std::size_t texts_ = 0, with_breaks_ = 0, with_escapes_ = 0, written_lists_ = 0;
};

}  // namespace vprm::tools
