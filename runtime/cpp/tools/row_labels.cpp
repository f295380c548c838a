#include "row_labels.hpp"

#include <cmath>
#include <stdexcept>
#include <string>

#include "python_json.hpp"
#include "row_json.hpp"

namespace vprm::tools {

namespace {

constexpr std::size_t kMostShown = 60;  // characters of a value in a message

class LabelError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A number or a truth value as Python writes it, else the type.
std::string shown(const Json &value) {
    if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
    if (!value.is_number() && !value.is_binary()) return type_of(value);
    const std::string digits = python_json(value);
    return digits.size() <= kMostShown ? digits : digits.substr(0, kMostShown - 4) + " ...";
}

// The value as JSON has it: missing numbers are null.
Json json_value(const std::string &key, const Json &value) {
    if (value.is_number_float() && std::isinf(value.get<double>()))
        throw LabelError(key + " is infinite, which JSON cannot hold: give a finite number, text or null");
    if (is_nan(value)) return nullptr;
    if (!value.is_structured()) return value;
    Json made = value;
    for (auto &part : made) part = json_value(key, part);
    return made;
}

bool is_verdict(const Json &value) { return value.is_number() && (value == 1 || value == 0 || value == -1); }

// Labels of one response's steps; how many steps a text has is not known yet.
Json verdicts(const Json &labels, const Json &response) {
    if (!labels.is_array()) throw LabelError("process_correctness must be a list of 1 (right), 0 (neutral) and -1 (wrong)");
    Json checked = Json::array();
    for (const Json &label : labels) {
        if (!is_verdict(label)) throw LabelError("process_correctness must be a list of 1 (right), 0 (neutral) and -1 (wrong)");
        checked.push_back(label.get<int>());
    }
    if (response.is_array() && labels.size() != response.size())
        throw LabelError("process_correctness has " + std::to_string(labels.size()) + " labels for " +
                         std::to_string(response.size()) + " steps: give one for each step");
    return checked;
}

// For each response a list, or null for none; a flat list belongs to the only response.
Json process_correctness(const Json &value, const Json &responses) {
    if (!value.is_array())
        throw LabelError("process_correctness must be a list for each response, of 1 (right), 0 (neutral), -1 (wrong)");
    bool has_lists = false, has_values = false;
    for (const Json &item : value) {
        has_lists = has_lists || item.is_array();
        has_values = has_values || !item.is_null();
    }
    const Json given = !has_lists && responses.size() == 1 && has_values ? Json::array({value}) : value;
    if (given.size() != responses.size())
        throw LabelError("process_correctness has " + std::to_string(given.size()) + " entries for " +
                         std::to_string(responses.size()) + " responses: give each a list of labels, or null");
    Json checked = Json::array();
    for (std::size_t i = 0; i < given.size(); i++) {
        try {
            checked.push_back(given[i].is_null() ? Json() : verdicts(given[i], responses[i]));
        } catch (const LabelError &error) {
            throw LabelError("response " + std::to_string(i) + ": " + error.what());
        }
    }
    return checked;
}

// True, false or null for each response; a single value belongs to the only response.
Json correct(const Json &value, const Json &responses) {
    const Json given = responses.size() == 1 && !value.is_array() && !value.is_string() ? Json::array({value}) : value;
    if (!given.is_array() || given.size() != responses.size())
        throw LabelError("correct must be a list with true or false for each of " + std::to_string(responses.size()) +
                         " responses, got " + (given.is_array() ? std::to_string(given.size()) + " entries" : shown(given)));
    Json known = Json::array();
    for (const Json &item : given) {
        const bool is_number = item.is_number() && (item == 0 || item == 1);
        if (!item.is_null() && !is_nan(item) && !item.is_boolean() && !is_number)
            throw LabelError("correct must have true or false for each response, got " + shown(item));
        known.push_back(is_nan(item) ? Json() : item.is_number_float() ? Json(item == 1) : item);
    }
    return known;
}

}  // namespace

Json labels_of(const Json &record, const Json &responses) {
    Json labels = Json::object();
    try {
        for (const char *key : {"answer", "correct", "process_correctness", "policy_model", "data_source"}) {
            const auto found = record.find(key);
            if (found == record.end() || found->is_null()) continue;
            const std::string name = key;
            Json value = json_value(name, name == "correct"               ? correct(*found, responses)
                                          : name == "process_correctness" ? process_correctness(*found, responses)
                                                                          : *found);
            if (!value.is_null()) labels[key] = std::move(value);
        }
    } catch (const LabelError &error) {
        return {{"label_error", error.what()}};
    }
    return labels;
}

}  // namespace vprm::tools
