// One list of fields yields parsing, type checks, help, defaults and the saved record of a run. A struct of options lists its members once:
//   template <class Self, class Visit> static void fields(Self& self, Visit&& visit) { visit("cutoff_len", self.cutoff_len, "tokens per sequence"); }
// An enum E is an option where names_of(E) gives its spellings.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/json.h"
#include "base/yaml.h"

namespace thimble {

// A spelling of an enum's value. Several may mean the same; the first of a value is the one that is written back.
struct Choice { std::string_view text; int value; };

// A size in a file or on the command line: "24GiB", "800MB", or a number of bytes.
struct Bytes {
  int64_t count = 0;
  bool operator==(const Bytes&) const = default;
};

// assign: false where the value is of another type; the target is then unchanged. Lists take "a, b" and [a, b].
bool assign(int64_t&, const Json&);  // 1e3 is an integer too
bool assign(double&, const Json&);   // .nan and .inf pass here; ranges are the business of whoever owns the options
bool assign(bool&, const Json&);
bool assign(std::string&, const Json&);
bool assign(std::vector<std::string>&, const Json&);
bool assign(std::vector<double>&, const Json&);
bool assign(Bytes&, const Json&);
Json shown(int64_t);
Json shown(double);  // not finite: as text, since JSON has no such numbers
Json shown(bool);
Json shown(const std::string&);
Json shown(const std::vector<std::string>&);
Json shown(const std::vector<double>&);
Json shown(Bytes);
std::string type_name(const int64_t&);
std::string type_name(const double&);
std::string type_name(const bool&);
std::string type_name(const std::string&);
std::string type_name(const std::vector<std::string>&);
std::string type_name(const std::vector<double>&);
std::string type_name(const Bytes&);

const Choice* find_choice(std::span<const Choice>, const Json&);
std::string_view spelling(std::span<const Choice>, int value);
std::string alternatives(std::span<const Choice>);  // "linear | cosine", each spelling once
bool means_nothing(const Json&);                    // null, "none", "auto": an optional stays empty

template <class E>
  requires std::is_enum_v<E>
bool assign(E& e, const Json& v) {
  const Choice* c = find_choice(names_of(E{}), v);
  if (c) e = E(c->value);
  return c != nullptr;
}
template <class E>
  requires std::is_enum_v<E>
Json shown(E e) { return std::string(spelling(names_of(E{}), int(e))); }
template <class E>
  requires std::is_enum_v<E>
std::string type_name(const E&) { return alternatives(names_of(E{})); }

template <class T>
bool assign(std::optional<T>& target, const Json& v) {
  if (means_nothing(v)) return target.reset(), true;
  T value{};
  if (!assign(value, v)) return false;
  target = std::move(value);
  return true;
}
template <class T>
Json shown(const std::optional<T>& v) { return v ? shown(*v) : Json(nullptr); }
template <class T>
std::string type_name(const std::optional<T>&) { return type_name(T{}) + ", or null"; }

// A member of a struct of options, its type erased. Holds pointers into the struct that it came from.
struct Field {
  std::string key, help, type;
  bool is_flag = false;  // --key alone means true
  std::function<bool(const Json&)> set;
  std::function<Json()> get;
};

template <class Options>
std::vector<Field> fields_of(Options& options) {
  std::vector<Field> list;
  Options::fields(options, [&]<class T>(std::string_view key, T& member, std::string_view help) {
    list.push_back({std::string(key), std::string(help), type_name(member), std::is_same_v<T, bool> || std::is_same_v<T, std::optional<bool>>,
                    [&member](const Json& v) { return assign(member, v); }, [&member] { return shown(member); }});
  });
  return list;
}

// Keys that are no fields, and what to say of them.
struct Alias { std::string_view key, means; };
struct Noted { std::string_view key, why; };
struct NotedValue { std::string_view key, value, why; };
struct Keys {
  std::span<const Alias> aliases{};
  std::span<const Noted> ignored{};  // accepted, without effect, reported once
  std::span<const Noted> refused{};  // known and not there: an error, unless the value says no (null, false, 0, "none", "no", "")
  std::span<const NotedValue> refused_values{};  // of a field: known elsewhere, not there
};

// Where a value came from: "run.yaml:7" or "command line".
struct Assignment { std::string key; Json value; std::string where; bool is_text = false; };  // text: typed by the field that takes it

std::vector<Assignment> assignments(const Yaml&, std::string_view file);
// "key=value", "--key=value", "--key value", "--flag"; dashes inside a key are underscores. Throws Error (usage) on anything else.
std::vector<Assignment> overrides(std::span<const std::string> arguments, std::span<const Field>, const Keys&);

struct Given {
  std::map<std::string, std::string> where;  // fields that were set, under their own names, and by what
  std::vector<std::string> ignored;          // "trust_remote_code (no code is ever run from a model folder)"
};

// Sets fields in order; later assignments win, but a key beside its alias in one source is an error. Throws Error (usage) that names the
// source, the key, the expected type and what was found; for an unknown key the nearest known one.
Given set_fields(std::span<const Field>, const Keys&, std::span<const Assignment>);

// The resolved record: every field with the value it has, defaults too, in the order of the list.
Json to_json(std::span<const Field>);
template <class Options>
Json to_json(const Options& options) {
  Options copy = options;
  return to_json(std::span<const Field>(fields_of(copy)));
}

// One line a field: key, type, default (what the struct holds now), meaning.
std::vector<std::string> help_lines(std::span<const Field>);

}  // namespace thimble
