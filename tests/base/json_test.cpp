// Limits of the JSON reader and the words of its errors.
#include "base/json.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>

namespace thimble {
namespace {

void expect_refused(std::string_view text, std::string_view what) {
  try {
    parse_json(text, "x.json");
    FAIL() << "accepted: " << text.substr(0, 60);
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::bad_input);
    EXPECT_EQ(e.problem().where, "x.json");
    EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
  }
}

TEST(Json, KeepsTheOrderOfKeys) { EXPECT_EQ(parse_json(R"({"z":1,"a":[true,null,"x"]})", "x").dump(), R"({"z":1,"a":[true,null,"x"]})"); }

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* text : {"", "{", "{'a':1}", "[1,]", "{\"a\":1,}", "nul", "[NaN]", "[Infinity]", "[1e999]", "[01]", "{} x", "// c\n{}", "\"\t\"", "[\"\\ud800\"]"})
    expect_refused(text, "cannot parse JSON");
  expect_refused("\xef\xbb\xbf{}", "byte order mark");
  expect_refused("[\"\xff\"]", "cannot parse JSON");
  expect_refused("[\"\xed\xa0\x80\"]", "cannot parse JSON");
}

TEST(Json, ErrorsSayWhere) {
  expect_refused("{\"a\": 1,\n \"b\": tru}", "line 2, column");
  expect_refused("[1,\n 1e999]", "line 2, column");
  expect_refused(R"(["\udc00"])", "surrogate");
}

// Texts of all kinds with bytes changed, put in, taken out and put elsewhere: taken and refused as nlohmann's own parser does, with the same values.
TEST(Json, ReadsWhatNlohmannsParserReads) {
  const std::string texts[] = {R"({"a":[1,-0,0.5e-3,1E+2,18446744073709551615,18446744073709551616,-9223372036854775808,-9223372036854775809],"b":{}})",
                               R"( [ true , false , null , "x\n\t\"\\\/\b\f\r" , [ ] , {"":""} ] )", R"(["\u00e9\ud83d\ude00\u0000","é😀한","\uD7FF\uE000"])",
                               R"({"x":{"y":{"z":[[[1.7976931348623157e308,5e-324,1e-400,2.2250738585072011e-308,0.1,123456789012345678901234567890]]]}}})"};
  constexpr std::string_view pieces[] = {"\\", "\"", "u", "d8", "DC00", "0", "9", ".", "e", "-", "+", ",", ":", "{", "}", "[", "]", " ", "\n", "\x01", "\xed", "\xa0", "\xf4", "\x90", "null"};
  uint64_t state = 1;
  const auto below = [&](size_t n) { return size_t((state = state * 6364136223846793005u + 1442695040888963407u) >> 33) % n; };
  int taken = 0, refused = 0;
  for (int i = 0; i < 40'000; ++i) {
    std::string text = texts[size_t(i) % std::size(texts)];
    for (size_t edits = below(4); edits > 0 && !text.empty(); --edits) {
      const size_t at = below(text.size()), n = 1 + below(3);
      if (below(3) == 0) text.erase(at, n);
      else if (below(2) == 0) text.insert(at, pieces[below(std::size(pieces))]);
      else text.insert(below(text.size()), text.substr(at, n));
    }
    const Json want = Json::parse(text, nullptr, false);
    Json found = Json::value_t::discarded;
    try {
      found = parse_json(text, "x");
    } catch (const Error& e) {
      if (e.problem().what == "a key stands twice in one object") continue;
    }
    ASSERT_EQ(found.is_discarded(), want.is_discarded()) << text;
    ++(want.is_discarded() ? refused : taken);
    if (want.is_discarded()) continue;
    ASSERT_EQ(found.dump(), want.dump()) << text;
    ASSERT_EQ(found, want) << text;
  }
  EXPECT_GT(taken, 10'000);
  EXPECT_GT(refused, 10'000);
}

TEST(Json, RefusesDuplicateKeysInOneObjectOnly) {
  expect_refused(R"({"a":1,"a":2})", "twice");
  expect_refused(R"([{"b":{"c":1,"c":1}}])", "twice");
  expect_refused(R"({"a":{"x":1},"b":[],"a":3})", "twice");
  EXPECT_NO_THROW(parse_json(R"({"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]})", "x"));
}

TEST(Json, RefusesANulInsteadOfEndingThere) {
  for (const std::string_view text : {std::string_view("{}\0", 3), std::string_view("{}\0[", 4), std::string_view("[1,\0 2]", 7), std::string_view("\0", 1)}) expect_refused(text, "a NUL");
}

TEST(Json, ErrorsStayShortAndShowNoControlCharacters) {
  const auto text_of = [](const std::string& text) {
    try {
      parse_json(text, "x.json");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const auto torn = text_of("[\"" + std::string(1 << 20, 'y')), twice = text_of(R"({"a\u001b[2Jb":1,"a\u001b[2Jb":2})");
  EXPECT_LT(torn.size(), 500u);
  EXPECT_NE(torn, "");
  EXPECT_EQ(twice.find('\x1b'), twice.npos) << "would clear the terminal";
  EXPECT_NE(twice.find("a\\x1b[2Jb"), twice.npos) << twice;
}

// An index of a model of 90,000 tensors, and its hostile twin. Looking for each key among all others would take minutes here.
TEST(Json, ManyKeysInOneObject) {
  constexpr int n = 100000;
  std::string text = "{";
  for (int i = 0; i < n; ++i) text += fmt::format("{}\"model.layers.{}.weight\":\"model-{}.safetensors\"", i ? "," : "", i, i % 100);
  const auto started = std::chrono::steady_clock::now();
  const Json o = parse_json(text + "}", "x", 64, int64_t{1} << 30);
  ASSERT_EQ(o.size(), size_t(n));
  EXPECT_EQ(o.items().begin().key(), "model.layers.0.weight");
  try {
    parse_json(text + R"(,"model.layers.7.weight":1})", "x", 64, int64_t{1} << 30);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_NE(e.problem().what.find("twice"), std::string::npos);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(10)) << "no longer linear: a tenth of this or less is usual";
}

TEST(Json, RefusesDepthBeforeItHurts) {
  const auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_NO_THROW(parse_json(nested(64), "x"));
  expect_refused(nested(65), "deeper than 64");
  expect_refused(std::string(1000000, '['), "deeper than 64");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  expect_refused(objects, "deeper than 64");
}

// Of text that is within a file's limit, but whose tree would take many times as much.
TEST(Json, ATreeOfTooManyPartsIsRefused) {
  const auto many = [](std::string_view part, size_t bytes) {
    std::string text = "[";
    while (text.size() < bytes) text.append(part).append(",");
    return text + "0]";
  };
  for (const char* part : {"0", "\"\"", "[]", "{}", "{\"a\":0}", "[[[]]]"}) {
    EXPECT_NO_THROW(parse_json(many(part, 100'000), "x")) << part;
    expect_refused(many(part, 6'000'000), "too many small parts");
  }
  std::string keys = "{";
  for (int i = 0; i < 400'000; ++i) keys += fmt::format("\"{}\":0,", i);
  expect_refused(keys + "\"a\":0}", "too many small parts");
  EXPECT_NO_THROW(parse_json("[\"" + std::string(40'000'000, 'a') + "\"]", "x")) << "a long string is no larger as a tree";
  EXPECT_NO_THROW(parse_json(many("0", 6'000'000), "x", 64, int64_t{1} << 30));
}

TEST(Json, ItemsAreHandedOverAndNotKept) {
  const std::string text = R"({"a":1,"long":{"x":[1,{"y":2}],"":null,"x":"again"},"in":{"list":["p",["q"],{"r":{}}],"other":[1]},"root.list":[0]})";
  const auto read = [](auto&& source, std::string& items) {
    const auto add = [&](JsonItem& item) { items += (item.key() ? *item.key() + "=" : "") + item.tree().dump() + ";"; };
    const JsonItems taken[] = {{"long", add}, {"in.list", add}, {"absent", add}};
    return parse_json(source, "x", taken).dump();
  };
  const std::string path = (fs::temp_directory_path() / fmt::format("thimble-json-{}", ::getpid())).string();
  for (const size_t blanks : {size_t{0}, size_t{3} << 20}) {  // so that an item lies on the border of two pieces of a file
    std::string spaced = text;
    spaced.insert(spaced.find("\"in\""), std::string(blanks, ' '));
    write_atomically(path, spaced);
    FilePieces file(path);
    std::string from_text, from_file;
    const std::string rest = R"({"a":1,"long":{},"in":{"list":[],"other":[1]},"root.list":[0]})";
    EXPECT_EQ(read(std::string_view(spaced), from_text), rest);
    EXPECT_EQ(read(file, from_file), rest);
    EXPECT_EQ(from_text, R"(x=[1,{"y":2}];=null;x="again";"p";["q"];{"r":{}};)");
    EXPECT_EQ(from_file, from_text);
  }
  std::string all;
  const JsonItems root{"", [&](JsonItem& item) { all += *item.key() + item.tree().dump(); }};
  EXPECT_EQ(parse_json(R"({"a":[1],"":{"b":2}})", "x", {&root, 1}).dump(), "{}");
  EXPECT_EQ(all, R"(a[1]{"b":2})");
  all.clear();
  EXPECT_EQ(parse_json(R"({"a":{"":[3,{"":4}],"b":{"":{"c":5}}}})", "x", {&root, 1}).dump(), "{}");
  EXPECT_EQ(all, R"(a{"":[3,{"":4}],"b":{"":{"c":5}}})") << "an empty key within an item is no root";
  std::string none;
  const std::string_view look_alikes = R"({"":{"long":[1]},"in.list":[2],"in":[{"list":[3]}]})";
  EXPECT_EQ(read(look_alikes, none), look_alikes) << "keys that would join to a path";
  EXPECT_EQ(none, "");
  for (const auto& [bad, what] : {std::pair{std::string(" \0", 2), "a NUL at byte 1"}, {std::string("[1,"), "cannot parse JSON"}, {std::string("\xef\xbb\xbf{}"), "byte order mark"}}) {
    write_atomically(path, bad);
    FilePieces file(path);
    std::string items;
    try {
      read(file, items);
      ADD_FAILURE() << what;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  }
  fs::remove(path);
}

TEST(Json, ItemsAreScalarsListsOfThemOrTrees) {
  std::string seen;
  const auto part = [](const JsonScalar& s) { return s.text ? "'" + std::string(*s.text) + "'" : s.other.dump(); };
  const JsonItems items{"", [&](JsonItem& item) {
    if (const auto* s = item.scalar()) seen += part(*s);
    for (const JsonScalar& s : item.list()) seen += part(s) + ",";
    seen += item.tree().dump() + ";";
  }};
  const std::string longer(100, 'x');
  parse_json(R"(["a\n\u00e9", 3, ["b", -1.5, ")" + longer + R"(", null, true], [], ["c", ["d"], "e"], ["f", {"g": 1}], {}, ""])", "x", {&items, 1});
  EXPECT_EQ(seen, "'a\né'\"a\\né\";33;'b',-1.5,'" + longer + "',null,true,[\"b\",-1.5,\"" + longer + "\",null,true];[];[\"c\",[\"d\"],\"e\"];[\"f\",{\"g\":1}];{};''\"\";");
  for (const char* bad : {R"(["a", ["b", "\udc00"]])", "[[\"\xff\"]]"}) EXPECT_THROW(parse_json(bad, "x", {&items, 1}), Error);
}

TEST(Json, TypedReads) {
  const Json o = parse_json(R"({"i":-4,"u":18446744073709551615,"f":2.5,"b":true,"s":"x","n":null})", "x");
  EXPECT_EQ(require<int64_t>(o, "i", "x"), -4);
  EXPECT_EQ(require<double>(o, "i", "x"), -4.0);
  EXPECT_EQ(require<double>(o, "f", "x"), 2.5);
  EXPECT_TRUE(require<bool>(o, "b", "x"));
  EXPECT_EQ(require<std::string>(o, "s", "x"), "x");
  EXPECT_EQ(value_or<int64_t>(o, "absent", 9, "x"), 9);
  EXPECT_EQ(value_or<int64_t>(o, "n", 9, "x"), 9);
  EXPECT_THROW(require<int64_t>(o, "u", "x"), Error);
  EXPECT_THROW(require<int64_t>(o, "f", "x"), Error);
  EXPECT_THROW(require<int64_t>(o, "b", "x"), Error);
  EXPECT_THROW(require<bool>(o, "i", "x"), Error);
  EXPECT_THROW(require<std::string>(o, "i", "x"), Error);
  EXPECT_THROW(require<double>(o, "s", "x"), Error);
  EXPECT_THROW(require<int64_t>(o, "n", "x"), Error);
  EXPECT_THROW(value_or<int64_t>(o, "s", 9, "x"), Error);
}

TEST(Json, ErrorsNameTheKeyAndWhatWasFound) {
  const Json o = parse_json(R"({"hidden_size":"4096","long":")" + std::string(500, 'y') + R"("})", "config.json");
  try {
    require<int64_t>(o, "hidden_size", "config.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.problem().what, "bad value of 'hidden_size'");
    EXPECT_EQ(e.problem().where, "config.json");
    EXPECT_EQ(e.problem().expected, "an integer");
    EXPECT_EQ(e.problem().found, "\"4096\"");
  }
  try {
    require<bool>(o, "long", "config.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_LE(e.problem().found.size(), 80u);
  }
  try {
    require<bool>(o, "gone", "config.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.problem().found, "nothing");
  }
}

}  // namespace
}  // namespace thimble
