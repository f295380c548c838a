#include "bundle/json_fields.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.hpp"

namespace vprm::internal {

JsonFields::JsonFields(const Json &value, std::string where) : value_(value), where_(std::move(where)) {
    if (!value.is_object())
        throw bundle_error(where_ + " should be an object, not " + value.type_name() + ": export the bundle again");
}

void JsonFields::refuse(const std::string &key, const std::string &expected) const {
    const std::string found = value_.at(key).dump(-1, ' ', false, Json::error_handler_t::replace);
    throw bundle_error(where_ + ": " + key + " is " + excerpt(found) + ", expected " + expected +
                       ": export the bundle again with this version");
}

const Json &JsonFields::any(const std::string &key) {
    const auto found = value_.find(key);
    if (found == value_.end())
        throw bundle_error(where_ + " has no key \"" + key + "\": export the bundle again with this version");
    taken_.insert(key);
    return *found;
}

JsonFields JsonFields::object(const std::string &key) { return JsonFields(any(key), where_ + ": " + key); }

std::string JsonFields::text(const std::string &key) {
    const Json &value = any(key);
    if (!value.is_string()) refuse(key, "text");
    return value.get<std::string>();
}

std::optional<std::string> JsonFields::text_or_null(const std::string &key) {
    if (any(key).is_null()) return std::nullopt;
    return text(key);
}

std::string JsonFields::one_of(const std::string &key, const std::vector<std::string> &allowed) {
    const std::string value = text(key);
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
        std::string names;
        for (const std::string &name : allowed) names += (names.empty() ? "" : ", ") + name;
        refuse(key, "one of " + names);
    }
    return value;
}

bool JsonFields::boolean(const std::string &key) {
    const Json &value = any(key);
    if (!value.is_boolean()) refuse(key, "true or false");
    return value.get<bool>();
}

double JsonFields::number(const std::string &key) {
    const Json &value = any(key);
    if (!value.is_number() || !std::isfinite(value.get<double>())) refuse(key, "a number");
    return value.get<double>();
}

std::int64_t JsonFields::integer(const std::string &key, std::int64_t least, std::int64_t most) {
    const Json &value = any(key);
    const std::string expected = "an integer from " + std::to_string(least) + " to " + std::to_string(most);
    if (!value.is_number_integer()) refuse(key, expected);
    if (value.is_number_unsigned() &&
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        refuse(key, expected);
    const auto number = value.get<std::int64_t>();
    if (number < least || number > most) refuse(key, expected);
    return number;
}

std::optional<std::int64_t> JsonFields::integer_or_null(const std::string &key, std::int64_t least,
                                                        std::int64_t most) {
    if (any(key).is_null()) return std::nullopt;
    return integer(key, least, most);
}

const Json &JsonFields::list(const std::string &key) {
    const Json &value = any(key);
    if (!value.is_array()) refuse(key, "a list");
    return value;
}

void JsonFields::finish() const {
    for (const auto &item : value_.items())
        if (taken_.count(item.key()) == 0)
            throw bundle_error(where_ + " has the unknown key \"" + excerpt(item.key()) +
                               "\": export the bundle again with this version");
}

}  // namespace vprm::internal
