// The parts of vprm-score.
#include <doctest/doctest.h>

#include "base64.hpp"
#include "ppm.hpp"
#include "python_json.hpp"
#include "row.hpp"

using namespace vprm::tools;

TEST_CASE("numbers are written as Python does") {
    const std::pair<double, const char *> cases[] = {
        {0.0, "0.0"},          {-0.0, "-0.0"},     {1.0, "1.0"},
        {0.1, "0.1"},          {1e16, "1e+16"},    {9999999999999998.0, "9999999999999998.0"},
        {123456789.125, "123456789.125"},          {1e-4, "0.0001"},
        {9.5e-5, "9.5e-05"},   {1e22, "1e+22"},    {5e-324, "5e-324"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {-2.5e-7, "-2.5e-07"}, {100.0, "100.0"},   {0.30000000000000004, "0.30000000000000004"}};
    for (const auto &[value, expected] : cases) CHECK(python_json(value) == expected);
}

TEST_CASE("texts and containers are written as Python does") {
    const Json value = {{"b", {1, true, nullptr, Json::array(), Json::object()}}, {"a\"\\\n\x01", "\xC3\xA9/\x7F"}};
    CHECK(python_json(value) == "{\"b\": [1, true, null, [], {}], \"a\\\"\\\\\\n\\u0001\": \"\xC3\xA9/\x7F\"}");
}

TEST_CASE("base64 is read as Python does") {
    CHECK(decoded_image("data:image/x;base64,TWFu IA==\n") == "Man ");
    CHECK(decoded_image("data:;base64,") == "");
    for (const char *text : {"data:image/png,abcd", "data:;base64", "data:;base64,abc", "data:;base64,ab=c", "data:;base64,====",
                             "data:;base64,a?cd"})
        CHECK_THROWS(decoded_image(text));
    CHECK(looks_encoded("data:"));
    CHECK(looks_encoded("/9j/" + std::string(96, 'A')));
    CHECK(!looks_encoded("/9j/short.jpg"));
}

TEST_CASE("PPM images are read whole or refused") {
    const std::string pixels(2 * 3 * 3, '\x07');
    const PpmImage image = ppm_of("P6\n# a comment\n2 3\t255\n" + pixels + "more", "x");
    CHECK(image.width_px == 2);
    CHECK(image.height_px == 3);
    CHECK(std::string(image.rgb.begin(), image.rgb.end()) == pixels);
    for (const std::string &bytes : {"P6\n2 3\n255\n" + pixels.substr(1), "P5\n2 3\n255\n" + pixels, "P6\n0 3\n255\n" + pixels,
                                     "P6\n2 3\n65535\n" + pixels, "P62 3 255 " + pixels, std::string("P6"), std::string(),
                                     std::string("P6\n2 3\n255"), "P6\n99999999999999999999 1\n255\n" + pixels,
                                     "P6\n262145 1\n255\n" + pixels, "P6\n200000 200000\n255\n" + pixels})
        CHECK_THROWS_AS(ppm_of(bytes, "x"), std::runtime_error);
}

TEST_CASE("rows are read as their contract says") {
    const Row row = row_of(Json::parse(R"({"question": "Q", "responses": ["a", ["b"], 5], "max_steps": 2.0, "answer": null,
        "correct": [true, null, 0], "process_correctness": [[1], null, [0, -1.0]], "note": 3, "image": [null, ""]})"), "");
    CHECK(row.max_steps == 2);
    CHECK(row.images.empty());
    CHECK(row.labels.dump() == R"({"correct":[true,null,0],"process_correctness":[[1],null,[0,-1]]})");
    CHECK(problem_of(row.responses[2]) == "a response is a string or a list of strings, got int");
    CHECK(id_of(Json::parse(R"({"id": 4.0})"), 1) == 4);
    CHECK_THROWS_AS(id_of(Json::parse(R"({"id": true})"), 1), RowError);
    for (const char *text : {"[]", "{}", R"({"question": 1, "responses": ["a"]})", R"({"question": "Q", "responses": []})",
                             R"({"question": "Q", "responses": ["a"], "max_steps": true})",
                             R"({"question": "Q", "responses": ["a"], "maxSteps": 2})",
                             R"({"question": "Q", "responses": ["a"], "screenshot": "a.ppm"})",
                             R"({"question": "Q", "responses": ["a"], "file": "a.png"})",
                             R"({"question": "Q", "responses": ["a"], "extra": {"image": "y"}})",
                             R"({"question": "Q", "responses": ["a"], "image": "http://x/y.ppm"})",
                             R"({"question": "Q", "responses": ["a"], "image": "a", "images": ["b"]})",
                             R"({"question": "Q", "responses": ["a"], "image": 5})"}) {
        CAPTURE(text);
        CHECK_THROWS_AS(row_of(Json::parse(text), ""), RowError);
    }
}

TEST_CASE("lines are read as Python reads them") {
    CHECK(python_json(row_json("\xEF\xBB\xBF {\"a\": [1.5e3, -0, 123456789012345678901234567890, true]}\r")) ==
          "{\"a\": [1500.0, 0, 123456789012345678901234567890, true]}");
    CHECK(row_json(R"("\ud83d\ude42\u00e9\n")") == "\xF0\x9F\x99\x82\xC3\xA9\n");
    CHECK(is_nan(row_json("NaN")));
    CHECK(whole(row_json("NaN")).is_null());
    CHECK(python_json(whole(row_json("1e22"))) == "10000000000000000000000");
    CHECK(whole(row_json("-Infinity")).is_number_float());
    CHECK(row_json(std::string(64, '[') + std::string(64, ']')).is_array());
    for (const std::string &text :
         {std::string(), std::string("{"), std::string("[1,]"), std::string("{\"a\":1,}"), std::string("01"), std::string("1."),
          std::string("+1"), std::string("-"), std::string("[1] 2"), std::string("'a'"), std::string("\"\t\""),
          std::string("\"\\x\""), std::string("\"\\u12g4\""), std::string("\"a"), std::string("{\"a\":1,\"a\":2}"),
          std::string("\"\\ud83d\""), std::string("\"\\ud83d\\u0041\""), std::string("\"\\ude42\""), std::string("\xFF"),
          std::string("1\0", 2), std::string(4301, '1'), std::string(65, '[') + std::string(65, ']')}) {
        CAPTURE(text.substr(0, 50));
        CHECK_THROWS_AS(row_json(text), LineError);
    }
}

TEST_CASE("labels that are wrong cost no scores") {
    for (const char *text : {R"({"correct": [true, false]})", R"({"correct": ["yes"]})", R"({"process_correctness": [2]})",
                             R"({"process_correctness": [[1, 1], [1]]})", R"({"process_correctness": 1})"}) {
        Json record = Json::parse(text);
        record.update({{"question", "Q"}, {"responses", Json::array({Json::array({"a"})})}, {"answer", "x"}});
        const Json labels = row_of(record, "").labels;
        CHECK(labels.size() == 1);
        CHECK(labels.contains("label_error"));
    }
}
