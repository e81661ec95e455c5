// The template language beside Jinja2's, snippet by snippet; the sandbox's limits; and whose word each byte of a text is.
#include "data/jinja_template.h"

#include "files.h"

namespace thimble::data::jinja {
namespace {

Template::Variables variables_of(const Json& data, Origin origin = other_data) {
  Template::Variables v;
  for (const auto& [name, value] : data.items()) v.emplace_back(name, Value::from_json(value, origin));
  return v;
}

std::string rendered(std::string_view source, const Json& data = Json::object(), const Limits& limits = {}) {
  return Template(source).render(variables_of(data), limits, {}).text.bytes();
}

TEST(Jinja, SaysWhatJinja2Says) {
  const Json golden_file = parse_json(read_text(golden("jinja.json"), 1 << 20), "jinja.json");
  ASSERT_GT(golden_file["rows"].size(), 50u);
  for (const Json& row : golden_file["rows"]) {
    const auto source = row[0].get<std::string>();
    if (row[1].is_null()) {
      EXPECT_NE(error_of([&] { rendered(source, golden_file["data"]); }), "") << source;
      continue;
    }
    try {
      EXPECT_EQ(rendered(source, golden_file["data"]), row[1].get<std::string>()) << source;
    } catch (const Error& e) {
      ADD_FAILURE() << source << "\n" << e.what();
    }
  }
}

struct Bad {
  const char* name;
  std::string source;
  const char* says;
};
std::string times(std::string_view s, int n) {
  std::string all;
  for (int i = 0; i < n; ++i) all += s;
  return all;
}

class BadTemplates : public testing::TestWithParam<Bad> {};
TEST_P(BadTemplates, EndInOneErrorThatNamesTheLine) {
  const std::string message = error_of([&] { rendered(GetParam().source, Json::object(), {.steps = 2'000'000}); });
  EXPECT_NE(message.find(GetParam().says), message.npos) << message.substr(0, 1000);
  EXPECT_NE(message.find("chat template"), message.npos) << message.substr(0, 1000);
  EXPECT_LT(message.size(), 2000u);
}
INSTANTIATE_TEST_SUITE_P(
    All, BadTemplates,
    testing::Values(
        Bad{"EndlessRange", "{% for i in range(10**18) %}x{% endfor %}", "more than 100000 numbers"},
        Bad{"NestedLoops", times("{% for i in range(99999) %}", 3) + times("{% endfor %}", 3), "steps"},
        Bad{"RecursiveMacro", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nests deeper"},
        Bad{"LongString", "{{ 'a' * 10**9 }}", "grows beyond"},
        Bad{"StringsThatDouble", "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "grows beyond"},
        Bad{"ListsThatDouble", "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", "steps"},
        Bad{"ListsThatShare", "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}", "steps"},
        Bad{"DeepLists", "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}", "nested deeper"},
        Bad{"ReplaceThatGrows", "{% set a = 'a' * 100000 %}{{ a | replace('a', a) }}", "grows beyond"},
        Bad{"JoinThatGrows", "{% set a = 'a' * 100000 %}{{ range(99999) | join(a) }}", "steps"},
        Bad{"WideFormat", "{{ '%999999d' % 1 }}", "wider"}, Bad{"WideCenter", "{{ 'a' | center(10**12) }}", "grows beyond"},
        Bad{"DeepExpression", "{{ " + times("(", 10000) + "1" + times(")", 10000) + " }}", "nesting"},
        Bad{"DeepNot", "{{ " + times("not ", 10000) + "1 }}", "nesting"}, Bad{"LongSum", "{{ 1" + times(" + 1", 10000) + " }}", "levels"},
        Bad{"LongAttributes", "{{ a" + times(".a", 10000) + " }}", "levels"}, Bad{"DeepIfs", times("{% if 1 %}", 10000), "nesting"},
        Bad{"ManyElifs", "{% if 1 %}" + times("{% elif 1 %}", 8000), "elif"}, Bad{"Class", "{{ ''.__class__ }}", "not for templates"},
        Bad{"ClassByItem", "{{ ''['__class__'] }}", "not for templates"}, Bad{"ClassByFilter", "{{ '' | attr('__class__') }}", "not for templates"},
        Bad{"Missing", "a\nb{{ missing.x }}", "line 2"}, Bad{"Raised", "{{ raise_exception('only users speak') }}", "only users speak"},
        Bad{"Include", "{% include '/etc/passwd' %}", "reads other templates"}, Bad{"Unclosed", "\n\n{{ a", "line 3"}, Bad{"UnclosedComment", "{# a", "#}"},
        Bad{"UnclosedString", "{{ 'a }}", "end of a string"}, Bad{"UnclosedFor", "{% for a in b %}x", "endfor"}, Bad{"StrayEnd", "{% endif %}", "endif"},
        Bad{"Huge", std::string(5 << 20, 'a'), "128 KiB"}, Bad{"NoUtf8", "a\xff", "UTF-8"}, Bad{"Overflow", "{{ 9223372036854775807 + 1 }}", "64 bits"},
        Bad{"Power", "{{ 10 ** 10 ** 10 }}", "64 bits"}, Bad{"NamespaceInItself", "{% set n = namespace() %}{% set n.n = [n] %}", "neither namespaces"},
        Bad{"Character", "{{ '\\ud800' }}", "number of a character"}, Bad{"Slices", "{{ 'abc' | slice(10**15) }}", "steps"},
        Bad{"Batch", "{{ 'abc' | batch(10**15, 1) | list }}", "steps"}, Bad{"Indent", "{{ ('\n' * 10**6) | indent(4096, blank=true) }}", "grows beyond"}),
    [](const auto& info) { return info.param.name; });

TEST(Jinja, OutputIsLimited) {
  EXPECT_NE(error_of([&] { rendered("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"); }).find("10000000 steps"), std::string::npos);
  EXPECT_NE(error_of([&] { rendered("{% for i in range(1000) %}0123456789{% endfor %}", Json::object(), {.text_bytes = 5000}); }).find("5000 bytes"), std::string::npos);
}

// 'u' under each byte that is a user's.
std::string authors(std::string_view source, const Json& data) {
  const Text text = Template(source).render(variables_of(data, 7), {}, {}).text;
  std::string who;
  for (size_t i = 0; i < text.size(); ++i) who += text.origin(i) == of_template ? '.' : text.origin(i) == 7 ? 'u' : '?';
  return text.bytes() + "\n" + who;
}

TEST(Jinja, EachByteKeepsItsAuthor) {
  const Json data{{"s", " ab "}, {"l", {"x", "y"}}, {"d", {{"k", "v"}}}, {"n", 5}};
  const auto same = [&](const char* source, const char* expected) { EXPECT_EQ(authors(source, data), expected) << source; };
  same("<{{ s }}>", "< ab >\n.uuuu.");
  same("{{ '<' + s.strip() ~ '>' }}", "<ab>\n.uu.");
  same("{{ s | upper | replace('B', '[b]') }}", " A[b] \nuu...u");
  same("{{ l | join('-') }}{{ n }}", "x-y5\nu.u.");
  same("{{ d | tojson }}", "{\"k\": \"v\"}\n..u....u..");
  same("{% for k, v in d.items() %}{{ k }}={{ v }}{% endfor %}", "k=v\nu.u");
  same("{{ ('<' + s + '>').split('a') | join('|') }}", "< |b >\n.u.uu.");
  same("{{ '%s:%s' % (s | trim, 'c') }}", "ab:c\nuu..");
  same("{{ '{}:{}'.format('c', s.strip()) }}", "c:ab\n..uu");
  same("{% set x %}<{{ s | trim }}>{% endset %}{{ x[1:] }}", "ab>\nuu.");
  same("{% macro m(t) %}[{{ t }}]{% endmacro %}{{ m(l[0]) }}{{ s[1] * 2 }}", "[x]aa\n.u.uu");
  same("{{ (s ~ '<')[::-1] }}", "< ba \n.uuuu");
  same("{{ l }}", "['x', 'y']\n..u....u..");
}

TEST(Jinja, GenerationIsMarked) {
  const Template t("a{% generation %}b\n{{ 'cd' }}{% endgeneration %}e{% generation %}f{% endgeneration %}");
  EXPECT_TRUE(t.marks_generation());
  const Rendering r = t.render({}, {}, {});
  EXPECT_EQ(r.text.bytes(), "ab\ncdef");
  ASSERT_EQ(r.generated.size(), 2u);
  EXPECT_EQ(r.generated[0].begin, 1u);
  EXPECT_EQ(r.generated[0].end, 5u);
  EXPECT_EQ(r.generated[1].begin, 6u);
}

}  // namespace
}  // namespace thimble::data::jinja
