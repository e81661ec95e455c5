// One field list: parsing from files and the command line, messages, the record and the help.
#include "base/options.h"

#include <gtest/gtest.h>

#include <cmath>

namespace thimble {
namespace {

enum class Mode { fast, safe };
constexpr Choice mode_names[] = {{"fast", int(Mode::fast)}, {"safe", int(Mode::safe)}, {"careful", int(Mode::safe)}};
std::span<const Choice> names_of(Mode) { return mode_names; }

struct Sample {
  int64_t count = 3;
  double rate = 0.5;
  bool flag = false;
  std::string name = "none given";
  std::vector<std::string> items;
  Mode mode = Mode::fast;
  std::optional<int64_t> limit;
  std::optional<bool> maybe;
  std::optional<Mode> other;
  std::optional<Bytes> budget;

  template <class Self, class Visit>
  static void fields(Self& o, Visit&& visit) {
    visit("count", o.count, "how many");
    visit("rate", o.rate, "how fast");
    visit("flag", o.flag, "whether");
    visit("name", o.name, "who");
    visit("items", o.items, "what");
    visit("mode", o.mode, "how");
    visit("limit", o.limit, "at most");
    visit("maybe", o.maybe, "perhaps");
    visit("other", o.other, "another");
    visit("budget", o.budget, "memory");
  }
};

constexpr Alias aliases[] = {{"n", "count"}, {"speed", "rate"}};
constexpr Noted ignored[] = {{"old_key", "it means nothing here"}};
constexpr Noted refused[] = {{"cloud", "there is none"}};
constexpr NotedValue refused_values[] = {{"mode", "reckless", "not there yet"}};
constexpr Keys keys{aliases, ignored, refused, refused_values};

struct Read {
  Sample sample;
  Given given;
};

Read read(std::string_view yaml, std::vector<std::string> arguments = {}) {
  Read r;
  const auto fields = fields_of(r.sample);
  auto list = assignments(parse_yaml(yaml, "c.yaml"), "c.yaml");
  for (auto& a : overrides(arguments, fields, keys)) list.push_back(std::move(a));
  r.given = set_fields(fields, keys, list);
  return r;
}

Problem refusal(std::string_view yaml, std::vector<std::string> arguments = {}) {
  try {
    read(yaml, std::move(arguments));
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::usage);
    return e.problem();
  }
  ADD_FAILURE() << "accepted: " << yaml;
  return {};
}

TEST(Options, DefaultsStayWhereNothingIsSaid) {
  const Sample s = read("").sample;
  EXPECT_EQ(s.count, 3);
  EXPECT_EQ(s.limit, std::nullopt);
}

TEST(Options, EveryTypeFromAFile) {
  const Sample s = read("count: 1e3\nrate: 1e-4\nflag: true\nname: x y\nitems: a, b ,c\nmode: careful\nlimit: 7\nmaybe: false\nother: safe\nbudget: 1.5GiB\n").sample;
  EXPECT_EQ(s.count, 1000);
  EXPECT_EQ(s.rate, 1e-4);
  EXPECT_TRUE(s.flag);
  EXPECT_EQ(s.name, "x y");
  EXPECT_EQ(s.items, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(s.mode, Mode::safe);
  EXPECT_EQ(s.limit, 7);
  EXPECT_EQ(s.maybe, false);
  EXPECT_EQ(s.other, Mode::safe);
  EXPECT_EQ(s.budget->count, 3 << 29);
}

TEST(Options, NothingAutoAndNullEmptyAnOptional) {
  for (const char* nothing : {"null", "~", "none", "auto", ""}) {
    Sample s;
    s.limit = 4;
    const auto fields = fields_of(s);
    set_fields(fields, keys, assignments(parse_yaml(std::string("limit: ") + nothing, "c.yaml"), "c.yaml"));
    EXPECT_EQ(s.limit, std::nullopt) << nothing;
  }
}

TEST(Options, ListsInBothSpellings) {
  EXPECT_EQ(read("items: [a, 'b, c']").sample.items, (std::vector<std::string>{"a", "b, c"}));
  EXPECT_TRUE(read("items: []").sample.items.empty());
  EXPECT_TRUE(read("items:").sample.items.empty());
  EXPECT_EQ(refusal("items: [1]").expected, "list, as 'a, b' or [a, b]");
  refusal("items: a,,b");
  refusal("items: {a: 1}");
}

TEST(Options, ListsOfNumbers) {
  std::vector<double> x;
  for (const Json& v : {Json("0.7, 3e-1"), Json({0.7, 0.3})}) {
    EXPECT_TRUE(assign(x, v));
    EXPECT_EQ(x, (std::vector<double>{0.7, 0.3}));
  }
  EXPECT_TRUE(assign(x, Json(2)) && x == std::vector<double>{2});
  for (const Json& v : {Json("a"), Json({"a"}), Json("1,,2"), Json(true), Json::object()}) EXPECT_FALSE(assign(x, v)) << v;
  EXPECT_EQ(x, std::vector<double>{2});
}

TEST(Options, OverridesInAllSpellingsLaterOnesWin) {
  const Sample s = read("count: 1\nrate: 1\n", {"count=2", "--rate", "2", "--flag", "--name=a=b", "--limit", "-5", "count=4", "--old-key", "x", "maybe=true", "budget=2048"}).sample;
  EXPECT_EQ(s.count, 4);
  EXPECT_EQ(s.rate, 2);
  EXPECT_TRUE(s.flag);
  EXPECT_EQ(s.name, "a=b");
  EXPECT_EQ(s.limit, -5);
  EXPECT_EQ(s.maybe, true);
  EXPECT_EQ(s.budget->count, 2048);
  EXPECT_FALSE(read("", {"--flag", "false"}).sample.flag);
  EXPECT_EQ(read("", {"--flag", "count=9"}).sample.count, 9) << "what follows a flag may be the next override";
}

TEST(Options, TextOfTheCommandLineMayLookLikeANumber) {
  EXPECT_EQ(read("", {"name=123"}).sample.name, "123");
  EXPECT_EQ(read("", {"--name", "true"}).sample.name, "true");
  EXPECT_EQ(read("", {"items=1,2"}).sample.items, (std::vector<std::string>{"1", "2"}));
  EXPECT_EQ(refusal("name: 123").fix, "put it in quotes");
}

TEST(Options, MalformedArgumentsAreRefused) {
  EXPECT_EQ(refusal("", {"stray"}).found, "stray");
  refusal("", {"=3"});
  refusal("", {"--"});
  EXPECT_EQ(refusal("", {"--count"}).what, "'--count' needs a value");
  EXPECT_EQ(refusal("", {"--count", "--flag"}).expected, "integer");
  for (const char* bytes : {"name=\xff", "\xc3=3", "--name=a\xed\xa0\x80"}) EXPECT_NE(refusal("", {bytes}).what.find("not UTF-8"), std::string::npos);
}

TEST(Options, AWrongTypeNamesFileLineKeyExpectedAndFound) {
  const Problem p = refusal("rate: 1\n\ncount: many\n");
  EXPECT_EQ(p.what, "bad value of 'count'");
  EXPECT_EQ(p.where, "c.yaml:3");
  EXPECT_EQ(p.expected, "integer");
  EXPECT_EQ(p.found, "\"many\"");
  EXPECT_EQ(refusal("", {"count=many"}).where, "command line");
  for (const char* bad : {"count: 1.5", "count: true", "count: [1]", "count: null", "count: 1e300", "count: .nan", "count: 9223372036854775808", "rate: fast", "rate: true",
                          "rate: null", "flag: 1", "flag: null", "name: null", "name: [a]", "mode: 3", "mode: null", "limit: x", "budget: -1", "budget: 3 parsecs", "budget: true"})
    refusal(bad);
}

TEST(Options, AdviceOnCommonSlips) {
  EXPECT_EQ(refusal("flag: yes").fix, "write true");
  EXPECT_EQ(refusal("flag: off").fix, "write false");
  EXPECT_EQ(refusal("rate: '1e-4'").fix, "remove the quotes");
  EXPECT_EQ(refusal("mode: careful1").fix, "did you mean 'careful'?");
  const Problem p = refusal("mode: reckless");
  EXPECT_EQ(p.what, "'mode: reckless' is not available");
  EXPECT_EQ(p.fix, "not there yet");
  EXPECT_EQ(p.expected, "fast | safe | careful");
}

TEST(Options, ARefusedValueChangesNothing) {
  Sample s;
  const auto fields = fields_of(s);
  for (const char* bad : {"count=x", "rate=x", "mode=x", "limit=x", "budget=x", "items=a,,b"}) {
    const std::vector<std::string> arguments{bad};
    EXPECT_THROW(set_fields(fields, keys, overrides(arguments, fields, keys)), Error) << bad;
  }
  EXPECT_EQ(to_json(s), to_json(Sample{}));
}

TEST(Options, UnknownKeysNameTheNearest) {
  const Problem p = refusal("a: 1\n");
  EXPECT_EQ(p.what, "unknown key 'a'");
  EXPECT_EQ(p.where, "c.yaml:1");
  EXPECT_EQ(refusal("cuont: 1").fix, "did you mean 'count'?");
  EXPECT_EQ(refusal("sped: 1").fix, "did you mean 'speed'?");
  EXPECT_EQ(refusal("", {"--budgt", "1"}).fix, "did you mean 'budget'?");
  EXPECT_EQ(refusal("something_quite_different: 1").fix, "--help-all lists the keys");
  EXPECT_EQ(refusal("- a\n- b\n").what, "a configuration is a list of `key: value`");
}

TEST(Options, AliasesAreTheSameOption) {
  const Read r = read("n: 8\n", {"--speed", "3"});
  EXPECT_EQ(r.sample.count, 8);
  EXPECT_EQ(r.sample.rate, 3);
  EXPECT_EQ(r.given.where.at("count"), "c.yaml:1");
  EXPECT_EQ(r.given.where.at("rate"), "command line");
  EXPECT_EQ(r.given.where.size(), 2u);
  EXPECT_EQ(refusal("n: 1\ncount: 2\n").what, "'n' and 'count' are two names of one option");
  EXPECT_EQ(read("n: 1\n", {"count=2"}).sample.count, 2) << "the command line may override a file by another name";
}

TEST(Options, IgnoredKeysAreListedOnce) {
  const Read r = read("old_key: 5\n", {"old_key=6"});
  EXPECT_EQ(r.given.ignored, (std::vector<std::string>{"old_key (it means nothing here)"}));
  EXPECT_TRUE(r.given.where.empty());
}

TEST(Options, RefusedKeysMayBeTurnedOff) {
  for (const char* off : {"null", "false", "0", "none", "'no'", "''", "0.0"}) EXPECT_NO_THROW(read(std::string("cloud: ") + off)) << off;
  EXPECT_NO_THROW(read("", {"--cloud", "false"}));
  const Problem p = refusal("cloud: big\n");
  EXPECT_EQ(p.what, "'cloud' is not available");
  EXPECT_EQ(p.fix, "there is none");
  EXPECT_EQ(p.where, "c.yaml:1");
}

TEST(Options, TheRecordHoldsEverythingInOrderAndReadsBack) {
  const Sample s = read("rate: 0.25\nitems: a, b\nbudget: 1KiB\nmode: careful").sample;
  const std::string record = to_json(s).dump();
  EXPECT_EQ(record, R"({"count":3,"rate":0.25,"flag":false,"name":"none given","items":["a","b"],"mode":"safe","limit":null,"maybe":null,"other":null,"budget":1024})");
  EXPECT_EQ(to_json(read(record).sample).dump(), record);
  Sample nan;
  nan.rate = std::nan("");
  EXPECT_EQ(to_json(nan)["rate"], ".nan") << "JSON has no NaN, and the record must not say null";
}

TEST(Options, HelpHasALineAField) {
  Sample s;
  const auto lines = help_lines(fields_of(s));
  ASSERT_EQ(lines.size(), 10u);
  EXPECT_EQ(lines[0], "count   how many [integer; 3]");
  EXPECT_EQ(lines[5], "mode    how [fast | safe | careful; fast]");
  EXPECT_EQ(lines[6], "limit   at most [integer, or null; null]");
}

}  // namespace
}  // namespace thimble
