#include "python_json.hpp"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace vprm::tools {

namespace {

using Json = nlohmann::ordered_json;

// Python's repr of a float: the shortest digits that give the number again, with an exponent below 1e-4 and from 1e16 on.
std::string repr(double value) {
    if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
    char buffer[64];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
    const std::string text(buffer, end);
    const auto exponent_at = text.find('e');
    const int exponent = std::stoi(text.substr(exponent_at + 1));
    const std::string sign = text[0] == '-' ? "-" : "";
    std::string digits;
    for (const char c : text.substr(0, exponent_at))
        if (c >= '0' && c <= '9') digits += c;
    if (exponent < -4 || exponent >= 16) {
        const std::string fraction = digits.size() > 1 ? "." + digits.substr(1) : "";
        const std::string power = std::to_string(exponent < 0 ? -exponent : exponent);
        return sign + digits[0] + fraction + (exponent < 0 ? "e-" : "e+") + (power.size() < 2 ? "0" : "") + power;
    }
    if (exponent < 0) return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    const auto whole = static_cast<std::size_t>(exponent) + 1;
    if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
    return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

void write_text(std::string &out, std::string_view text) {
    out += '"';
    for (const char c : text) {
        switch (c) {
            case '"': out += "\\\""; break;
            case '\\': out += "\\\\"; break;
            case '\n': out += "\\n"; break;
            case '\r': out += "\\r"; break;
            case '\t': out += "\\t"; break;
            case '\b': out += "\\b"; break;
            case '\f': out += "\\f"; break;
            default:
                if (static_cast<unsigned char>(c) < 0x20) {
                    char escape[8];
                    std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
                    out += escape;
                } else {
                    out += c;
                }
        }
    }
    out += '"';
}

void write(std::string &out, const Json &value) {
    bool is_first = true;
    const auto separate = [&] {
        if (!is_first) out += ", ";
        is_first = false;
    };
    if (value.is_object()) {
        out += '{';
        for (const auto &item : value.items()) {
            separate();
            write_text(out, item.key());
            out += ": ";
            write(out, item.value());
        }
        out += '}';
    } else if (value.is_array()) {
        out += '[';
        for (const Json &item : value) {
            separate();
            write(out, item);
        }
        out += ']';
    } else if (value.is_string()) {
        write_text(out, value.get_ref<const std::string &>());
    } else if (value.is_number_float()) {
        out += repr(value.get<double>());
    } else if (value.is_binary()) {
        out.append(value.get_binary().begin(), value.get_binary().end());
    } else {
        out += value.dump();
    }
}

}  // namespace

std::string python_json(const Json &value) {
    std::string out;
    write(out, value);
    return out;
}

}  // namespace vprm::tools
