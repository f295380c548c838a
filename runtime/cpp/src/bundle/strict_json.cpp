#include "bundle/strict_json.hpp"

#include <set>
#include <vector>

#include "base/error.hpp"
#include "base/utf8.hpp"

namespace vprm::internal {

template <typename Json>
Json strict_json(std::string_view text, int most_depth) {
    if (valid_utf8_prefix(text) != text.size()) throw JsonError("it is not UTF-8 text");
    std::vector<std::set<std::string>> keys;  // of the objects around
    const auto check = [&](int depth, typename Json::parse_event_t event, Json &parsed) {
        switch (event) {
            case Json::parse_event_t::object_start:
            case Json::parse_event_t::array_start:
                if (depth >= most_depth) throw JsonError("it is nested too deeply");
                if (event == Json::parse_event_t::object_start) keys.emplace_back();
                break;
            case Json::parse_event_t::object_end: keys.pop_back(); break;
            case Json::parse_event_t::key: {
                const auto &key = parsed.template get_ref<const std::string &>();
                if (!keys.back().insert(key).second) throw JsonError("the key \"" + excerpt(key) + "\" is there twice");
                break;
            }
            default: break;
        }
        return true;
    };
    try {
        return Json::parse(text, check);
    } catch (const typename Json::exception &error) {
        throw JsonError(excerpt(error.what()));
    }
}

template nlohmann::json strict_json(std::string_view text, int most_depth);
template nlohmann::ordered_json strict_json(std::string_view text, int most_depth);

}  // namespace vprm::internal
