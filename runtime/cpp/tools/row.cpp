#include "row.hpp"

#include <set>

namespace vprm::tools {

namespace {

const Json &member(const Json &record, const char *key) {
    static const Json &kNull = *new Json();
    const auto found = record.find(key);
    return found == record.end() ? kNull : *found;
}

std::string text(const Json &record, const char *key) {
    const Json &value = member(record, key);
    if (!value.is_string()) throw RowError(std::string(key) + " must be text, got " + value.type_name());
    return value.get<std::string>();
}

int limit(const Json &record, const char *key) {
    const Json &value = member(record, key);
    if (value.is_null()) return 0;
    if (!value.is_number_integer() || value < 1 || value > 1'000'000'000)
        throw RowError(std::string(key) + " must be an integer of at least 1");
    return value.get<int>();
}

void add_images(Row &row, const Json &value, const std::string &image_root) {
    if (value.is_null() || (value.is_string() && value.get_ref<const std::string &>().empty())) return;
    if (value.is_array()) {
        for (const Json &item : value) add_images(row, item, image_root);
        return;
    }
    if (!value.is_string()) throw RowError("an image must be the path of a PPM file; leave image out for text only");
    const auto path = value.get<std::string>();
    row.images.push_back(read_ppm(path[0] == '/' || image_root.empty() ? path : image_root + "/" + path));
}

void check_keys(const Json &record) {
    static const std::set<std::string> &kKnown = *new std::set<std::string>{
        "id",     "image",   "images",        "question",    "responses", "max_steps", "max_tiles",
        "answer", "correct", "policy_model",  "data_source"};
    for (const auto &item : record.items())
        if (kKnown.count(item.key()) == 0 && !item.value().is_null())
            throw RowError("this program does not read the key " + item.key() + ": leave it out, or use vprm score");
}

}  // namespace

Json id_of(const Json &record, std::size_t number) {
    const Json &id = record.is_object() ? member(record, "id") : Json();
    if (id.is_null()) return number;
    if (!id.is_string() && !id.is_number_integer()) throw RowError("id must be a string or an integer");
    return id;
}

Row row_of(const Json &record, const std::string &image_root) {
    if (!record.is_object()) throw RowError(std::string("a row is a JSON object, got ") + record.type_name());
    check_keys(record);
    Row row;
    row.question = text(record, "question");
    row.responses = member(record, "responses");
    if (!row.responses.is_array() || row.responses.empty())
        throw RowError("responses must be a list with at least one response");
    for (const Json &response : row.responses) {
        if (!response.is_string() && !response.is_array()) throw RowError("a response is text or a list of steps");
        if (response.is_array())
            for (const Json &step : response)
                if (!step.is_string()) throw RowError("a step is text");
    }
    row.max_steps = limit(record, "max_steps");
    row.max_tiles = limit(record, "max_tiles");
    try {
        for (const char *key : {"image", "images"}) add_images(row, member(record, key), image_root);
    } catch (const RowError &) {
        throw;
    } catch (const std::runtime_error &error) {
        throw RowError(error.what());
    }
    for (const char *key : {"answer", "correct", "policy_model", "data_source"})
        if (const Json &label = member(record, key); !label.is_null()) row.labels[key] = label;
    return row;
}

}  // namespace vprm::tools
