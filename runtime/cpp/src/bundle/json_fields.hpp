// Strict reading of JSON objects: every key is taken once with its type, and none may be left over.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vprm::internal {

using Json = nlohmann::json;

class JsonFields {
  public:
    // `where` names the object in messages. Throws a bundle error unless `value` is an object.
    JsonFields(const Json &value, std::string where);

    const Json &any(const std::string &key);
    JsonFields object(const std::string &key);
    std::string text(const std::string &key);
    std::optional<std::string> text_or_null(const std::string &key);
    std::string one_of(const std::string &key, const std::vector<std::string> &allowed);
    bool boolean(const std::string &key);
    double number(const std::string &key);
    std::int64_t integer(const std::string &key, std::int64_t least = std::numeric_limits<std::int64_t>::min(),
                         std::int64_t most = std::numeric_limits<std::int64_t>::max());
    std::optional<std::int64_t> integer_or_null(const std::string &key, std::int64_t least, std::int64_t most);
    const Json &list(const std::string &key);

    // Throws a bundle error naming the keys that nobody took.
    void finish() const;

    const std::string &where() const { return where_; }

  private:
    [[noreturn]] void refuse(const std::string &key, const std::string &expected) const;

    const Json &value_;
    std::string where_;
    std::set<std::string> taken_;
};

}  // namespace vprm::internal
