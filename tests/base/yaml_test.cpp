// Scalars by the core schema, and every refusal with its line.
#include "base/yaml.h"

#include <gtest/gtest.h>

#include <clocale>
#include <cmath>

namespace thimble {
namespace {

Json value(std::string_view text) { return parse_yaml(text, "t.yaml").value; }

// What is thrown names where, and says what.
void expect_refused(std::string_view text, std::string_view where, std::string_view what) {
  try {
    const Json v = value(text);
    FAIL() << "accepted: " << text.substr(0, 60) << " as " << v.dump().substr(0, 100);
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::usage);
    EXPECT_EQ(e.problem().where, where) << e.what();
    EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
  }
}

TEST(Yaml, ReadsAConfigurationWithTheLinesOfItsKeys) {
  const Yaml y = parse_yaml("### model\nmodel_name_or_path: /m # the base\n\nlearning_rate: 1.0e-4\nlist: [a, 'b c', 3]\nmore:\n  - x\n  - y: 1\n", "t.yaml");
  EXPECT_EQ(y.value.dump(), R"({"model_name_or_path":"/m","learning_rate":0.0001,"list":["a","b c",3],"more":["x",{"y":1}]})");
  EXPECT_EQ(y.lines, (std::map<std::string, int>{{"model_name_or_path", 2}, {"learning_rate", 4}, {"list", 5}, {"more", 6}}));
}

TEST(Yaml, ScalarsOfTheCoreSchema) {
  for (const char* null : {"", "~", "null", "Null", "NULL"}) EXPECT_TRUE(resolve_scalar(null).is_null()) << null;
  for (const char* yes : {"true", "True", "TRUE"}) EXPECT_EQ(resolve_scalar(yes), Json(true));
  for (const char* no : {"false", "False", "FALSE"}) EXPECT_EQ(resolve_scalar(no), Json(false));
  for (const char* text : {"yes", "no", "on", "off", "y", "nULL", "tRUE", "1_000", "0b1", "0o8", "0x", "0xg", "1e", "e5", "1.2.3", "+", "-", ".", "-.", ".e1", "1 2", "12:30",
                           "nan", "inf", "infinity", "0x1p3", "--1", "+-1", "1e+", "- 1"}) {
    EXPECT_EQ(resolve_scalar(text), Json(text));
    EXPECT_TRUE(resolve_scalar(text).is_string()) << text;
  }
  const std::pair<const char*, int64_t> integers[] = {{"0", 0}, {"-0", 0}, {"+7", 7}, {"-12", -12}, {"010", 10}, {"0o17", 15}, {"0xFf", 255},
                                                      {"9223372036854775807", INT64_MAX}, {"-9223372036854775808", INT64_MIN}};
  for (const auto& [text, n] : integers) {
    ASSERT_TRUE(resolve_scalar(text).is_number_integer()) << text;
    EXPECT_EQ(resolve_scalar(text).get<int64_t>(), n);
  }
  const std::pair<const char*, double> floats[] = {{"1e-4", 1e-4}, {"1.0e-4", 1e-4}, {"1E5", 1e5}, {"-2.5", -2.5}, {".5", 0.5}, {"5.", 5}, {"+1.5e+3", 1500},
                                                   {"9223372036854775808", 0x1p63}, {"1e999", INFINITY}, {"-1e999", -INFINITY}, {"1e-999", 0}, {"-.inf", -INFINITY}};
  for (const auto& [text, x] : floats) {
    ASSERT_TRUE(resolve_scalar(text).is_number_float()) << text;
    EXPECT_EQ(resolve_scalar(text).get<double>(), x) << text;
  }
  EXPECT_TRUE(std::isnan(resolve_scalar(".nan").get<double>()));
}

TEST(Yaml, ALocaleWithDecimalCommasChangesNothing) {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  for (const char* name : {"de_DE.UTF-8", "fr_FR.UTF-8", "de_DE.utf8"})
    if (std::setlocale(LC_ALL, name)) break;
  EXPECT_EQ(resolve_scalar("1.5e-3").get<double>(), 1.5e-3);
  std::setlocale(LC_ALL, before.c_str());
}

TEST(Yaml, WhatIsQuotedStaysText) {
  EXPECT_EQ(value("a: '1'\nb: \"true\"\nc: 'null'\nd: ''\ne: |\n  12\n").dump(), R"({"a":"1","b":"true","c":"null","d":"","e":"12\n"})");
}

TEST(Yaml, EmptyTextIsAnEmptyObject) {
  for (const char* text : {"", "\n\n", "# only a comment\n", "---\n", "~"}) EXPECT_EQ(value(text), Json::object()) << text;
}

TEST(Yaml, LineEndingsAndByteOrderMark) {
  EXPECT_EQ(value("\xef\xbb\xbf" "a: 1\r\nb: x\r\n").dump(), R"({"a":1,"b":"x"})");
}

TEST(Yaml, TabsAreRefusedWithTheirLine) {
  expect_refused("a: 1\nb:\n\tc: 2\n", "t.yaml:3", "tab");
  expect_refused("a:\n  \tb: 1\n", "t.yaml:2", "tab");
  EXPECT_EQ(value("a: 1\t# a tab after a value is space\n").dump(), R"({"a":1})");
}

TEST(Yaml, DuplicateKeysAreRefused) {
  expect_refused("a: 1\nb: 2\na: 3\n", "t.yaml:3", "a, first in line 1");
  expect_refused("a:\n  x: 1\n  x: 2\n", "t.yaml:3", "twice");
  expect_refused("a: {x: 1, 'x': 2}\n", "t.yaml:1", "twice");
}

TEST(Yaml, NothingButPlainData) {
  expect_refused("a: !!python/object:os.system x\n", "t.yaml:1", "tags");
  expect_refused("x: 1\na: !!str 1\n", "t.yaml:2", "tags");
  expect_refused("a: !custom {b: 1}\n", "t.yaml:1", "tags");
  expect_refused("a: !!python/tuple [1]\n", "t.yaml:1", "tags");
  expect_refused("a: &x 1\n", "t.yaml:1", "anchors");
  expect_refused("a: &x [1]\nb: *x\n", "t.yaml:1", "anchors");
  expect_refused("a: 1\n---\nb: 2\n", "t.yaml:2", "more than one");
  expect_refused("? [1, 2]\n: 3\n", "t.yaml:1", "key");
  expect_refused("? {a: 1}\n: 3\n", "t.yaml:1", "key");
  expect_refused("~: 3\n", "t.yaml:1", "key");
}

TEST(Yaml, ABombOfAliasesIsRefusedAtItsFirstAnchor) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    bomb += fmt::format("a{0}: &a{0} [", i);
    for (int k = 0; k < 9; ++k) bomb += fmt::format("{}*a{}", k ? ", " : "", i - 1);
    bomb += "]\n";
  }
  expect_refused(bomb, "t.yaml:1", "anchors");
}

TEST(Yaml, DepthAndSizeHaveLimits) {
  const auto nested = [](int n) { return "a: " + std::string(size_t(n), '[') + "1" + std::string(size_t(n), ']') + "\n"; };
  EXPECT_NO_THROW(value(nested(31)));
  expect_refused(nested(32), "t.yaml:1", "deeper");
  expect_refused(nested(100000), "t.yaml:1", "");
  expect_refused("a: " + std::string(100000, '{'), "t.yaml:1", "");
  std::string deep;
  for (int i = 0; i < 500; ++i) deep += std::string(size_t(i), ' ') + "k:\n";
  expect_refused(deep, "t.yaml:33", "deeper");
  expect_refused("a: " + std::string(1 << 20, 'x'), "t.yaml", "too large");
  std::string many;
  for (int i = 0; i < 100000; ++i) many += fmt::format("k{}:\n", i);
  expect_refused(many, "t.yaml:4097", "more than 4096 keys");
}

TEST(Yaml, BrokenTextNamesItsLine) {
  expect_refused("a: 1\nb: [1, 2\nc: 3\n", "t.yaml:3", "cannot parse");
  expect_refused("a: 1\r\n\xc3\xa4: 'no ''end\n\nb: 2\n", "t.yaml:2", "never closed");
  expect_refused("a: \"no \\\" end\n", "t.yaml:1", "never closed");
  expect_refused("a: [1, 'no end]\n", "t.yaml:1", "never closed");
  EXPECT_EQ(value("\xc3\xa4: 'an ''end'\r\nb: \"\\\"\"\nc: |\n  it's\nd: \"x\n  y\"").dump(), "{\"\xc3\xa4\":\"an 'end\",\"b\":\"\\\"\",\"c\":\"it's\\n\",\"d\":\"x y\"}");
  expect_refused("a: 1\n b: 2\n", "t.yaml:2", "cannot parse");
  expect_refused("key: @x\n", "t.yaml:1", "cannot parse");
}

TEST(Yaml, BytesThatAreNoTextAreRefused) {
  expect_refused("a: 1\nb: \xff\n", "t.yaml:2", "UTF-8");
  expect_refused("a: \xc0\xaf\n", "t.yaml:1", "UTF-8");
  expect_refused("a: \xed\xa0\x80\n", "t.yaml:1", "UTF-8");
  expect_refused("a: \xf5\x80\x80\x80\n", "t.yaml:1", "UTF-8");
  expect_refused("a: \xe2\x82", "t.yaml:1", "UTF-8");
  expect_refused(std::string_view("a\0: 1", 5), "t.yaml:1", "control");
  expect_refused("a: 1\rb: 2", "t.yaml:1", "control");
  expect_refused(std::string_view("\xff\xfe" "a\0:\0", 6), "t.yaml:1", "UTF-8");
  EXPECT_EQ(value("a: \xc3\xa4\xf0\x9f\x99\x82\n")["a"], "\xc3\xa4\xf0\x9f\x99\x82");
}

TEST(Yaml, RandomBytesNeverDoMoreThanThrow) {
  // Pieces that a fuzzer would find interesting, put together at random.
  const std::string_view pieces[] = {"a", ":", " ", "\n", "- ", "[", "]", "{", "}", ",", "'", "\"", "|", ">", "#", "&x", "*x", "!", "!!str ", "? ", "%YAML 1.2\n", "---", "...", "\\", "1e5", "~", "  ", "\r", "@", "`"};
  uint32_t state = 1;
  int accepted = 0;
  for (int n = 0; n < 20000; ++n) {
    std::string text;
    state = state * 1664525 + 1013904223;
    for (uint32_t k = state >> 28; k > 0; --k) {
      state = state * 1664525 + 1013904223;
      text += pieces[(state >> 8) % std::size(pieces)];
    }
    try {
      value(text);
      ++accepted;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(accepted, 500);
}

}  // namespace
}  // namespace thimble
