// Methods of Python's str, dict and list that templates call, and the global functions. What would change a value is refused, as
// Jinja2's immutable sandbox refuses it.
#include <algorithm>
#include <array>

#include "data/jinja_runtime.h"
#include "data/pattern.h"
#include "data/utf8.h"

namespace thimble::data::jinja {
namespace {

struct Row {
  std::string_view name;
  Method method;
};

const Text& wanted_text(const Value* v, std::string_view what) {
  if (!v || !v->text()) refuse(fmt::format("{} wants a str, not {}", what, v ? type_name(*v) : "nothing"));
  return *v->text();
}
int64_t wanted_int(const Value& v, std::string_view what) {
  int64_t room = 0;
  const int64_t* i = v.integer(room);
  if (!i) refuse(fmt::format("{} wants an int, not a {}", what, type_name(v)));
  return *i;
}

template <Text (*f)(const Text&)>
Value mapped(Runtime& rt, const Value& self, const Arguments& a) {
  a.bind("a method", {});
  rt.spend_on(self);
  return f(*self.text());
}

template <bool left, bool right>
Value stripped(Runtime& rt, const Value& self, const Arguments& a) {
  rt.spend_on(self);
  const Value* chars = a.bind("strip", {"chars"})[0];
  return strip(*self.text(), chars && !chars->is_none() ? &wanted_text(chars, "strip()") : nullptr, left, right);
}

template <bool at_start>
Value begins(Runtime&, const Value& self, const Arguments& a) {
  const Value* what = a.bind(at_start ? "startswith" : "endswith", {"prefix"})[0];
  const auto one = [&](const Value& v) {
    const std::string &s = self.text()->bytes(), &sought = wanted_text(&v, "startswith()").bytes();
    return at_start ? s.starts_with(sought) : s.ends_with(sought);
  };
  if (what && what->list() && what->list()->tuple) return std::any_of(what->list()->items.begin(), what->list()->items.end(), one);
  if (!what) refuse("startswith() and endswith() want a str");
  return one(*what);
}

// Words between runs of white space.
std::vector<Span> words_of(const std::string& s) {
  std::vector<Span> words;
  bool in_word = false;
  for (size_t at = 0; at < s.size();) {
    const CodePoint c = code_point_at(s, at);
    const bool blank = is_whitespace(c.value) || (c.value >= 0x1c && c.value <= 0x1f);
    if (!blank && !in_word) words.push_back({at, at});
    in_word = !blank;
    at += size_t(c.bytes);
    if (in_word) words.back().end = at;
  }
  return words;
}

List split_at_blanks(const Text& text, size_t most, bool from_right) {
  auto words = words_of(text.bytes());
  if (words.size() > most && words.size() - most > 1) {  // the rest stays one, with the blanks within and on its far side
    const size_t rest = words.size() - most;
    if (from_right) words.erase(words.begin() + 1, words.begin() + std::ptrdiff_t(rest)), words[0] = {0, words_of(text.bytes())[rest - 1].end};
    else words[most].end = text.size(), words.resize(most + 1);
  }
  List out;
  for (const Span w : words) out.emplace_back(text.substr(w.begin, w.end - w.begin));
  return out;
}

template <bool from_right>
Value split(Runtime& rt, const Value& self, const Arguments& a) {
  const auto args = a.bind("split", {"sep", "maxsplit"});
  const Text& text = *self.text();
  rt.spend(1 + text.size());
  const int64_t limit = args[1] ? wanted_int(*args[1], "split()") : -1;
  const size_t most = limit < 0 ? SIZE_MAX : size_t(limit);
  if (!args[0] || args[0]->is_none()) return split_at_blanks(text, most, from_right);
  const std::string &s = text.bytes(), &by = wanted_text(args[0], "split()").bytes();
  if (by.empty()) refuse("split() wants a separator that is not empty");
  List out;
  if (from_right) {
    size_t end = s.size();
    for (size_t at = s.rfind(by); at != s.npos && out.size() < most && at + by.size() <= end; at = end >= by.size() ? s.rfind(by, end - by.size()) : s.npos) {
      out.emplace_back(text.substr(at + by.size(), end - at - by.size()));
      end = at;
    }
    out.emplace_back(text.substr(0, end));
    std::reverse(out.begin(), out.end());
    return out;
  }
  size_t done = 0;
  for (size_t at = s.find(by); at != s.npos && out.size() < most; at = s.find(by, done)) {
    out.emplace_back(text.substr(done, at - done));
    done = at + by.size();
  }
  out.emplace_back(text.substr(done));
  return out;
}

Value split_lines(Runtime& rt, const Value& self, const Arguments& a) {
  const Value* keep = a.bind("splitlines", {"keepends"})[0];
  const Text& text = *self.text();
  rt.spend(1 + text.size());
  List out;
  size_t begin = 0;
  const std::string& s = text.bytes();
  for (size_t at = 0; at < s.size(); ++at) {
    if (s[at] != '\n' && s[at] != '\r') continue;
    const size_t end = at + (s[at] == '\r' && at + 1 < s.size() && s[at + 1] == '\n' ? 2 : 1);
    out.emplace_back(text.substr(begin, (keep && keep->truth() ? end : at) - begin));
    begin = end;
    at = end - 1;
  }
  if (begin < s.size()) out.emplace_back(text.substr(begin));
  return out;
}

template <bool from_right>
Value find_in(Runtime& rt, const Value& self, const Arguments& a) {
  rt.spend_on(self);
  const std::string& sought = wanted_text(a.bind("find", {"sub"})[0], "find()").bytes();
  const size_t at = from_right ? self.text()->bytes().rfind(sought) : self.text()->bytes().find(sought);
  return at == std::string::npos ? int64_t{-1} : int64_t(length(self.text()->substr(0, at)));
}

Value count_in(Runtime& rt, const Value& self, const Arguments& a) {
  rt.spend_on(self);
  const Value* what = a.bind("count", {"sub"})[0];
  if (const Sequence* l = self.list()) return int64_t(std::count_if(l->items.begin(), l->items.end(), [&](const Value& v) { return what && equal(v, *what); }));
  const std::string& sought = wanted_text(what, "count()").bytes();
  if (sought.empty()) return int64_t(length(*self.text())) + 1;
  int64_t n = 0;
  for (size_t at = self.text()->bytes().find(sought); at != std::string::npos; at = self.text()->bytes().find(sought, at + sought.size())) ++n;
  return n;
}

Value replaced(Runtime& rt, const Value& self, const Arguments& a) { return rt.filtered("replace", self, a); }

Value joined(Runtime& rt, const Value& self, const Arguments& a) {
  const Value* items = a.bind("join", {"iterable"})[0];
  if (!items) refuse("join() wants a list");
  return rt.filtered("join", *items, {{self}, {}});
}

template <bool (*f)(char32_t)>
Value all_points(Runtime& rt, const Value& self, const Arguments& a) {
  a.bind("a method", {});
  rt.spend_on(self);
  const std::string& s = self.text()->bytes();
  for (size_t at = 0; at < s.size();) {
    const CodePoint c = code_point_at(s, at);
    if (!f(c.value)) return false;
    at += size_t(c.bytes);
  }
  return !s.empty();
}

// "{} {0} {name} {{": without specifications.
Value formatted(Runtime& rt, const Value& self, const Arguments& a) {
  const Text& format = *self.text();
  const std::string& s = format.bytes();
  Text out;
  size_t next = 0;
  for (size_t at = 0; at < s.size(); ++at) {
    if ((s[at] == '{' || s[at] == '}') && at + 1 < s.size() && s[at + 1] == s[at]) {
      out += format.substr(at++, 1);
      continue;
    }
    if (s[at] == '}') refuse("a format has a single '}'");
    if (s[at] != '{') {
      out += format.substr(at, 1);
      continue;
    }
    const size_t end = s.find('}', at);
    if (end == s.npos) refuse("a format lacks a '}'");
    const std::string place = s.substr(at + 1, end - at - 1);
    if (place.find_first_of(".[:!") != place.npos) refuse(fmt::format("the format {{{}}} is not known", place));
    const Value* v = nullptr;
    if (place.empty() || place.find_first_not_of("0123456789") == place.npos) {
      const size_t i = place.empty() ? next++ : place.size() > 6 ? SIZE_MAX : size_t(std::stoul(place));
      if (i < a.positional.size()) v = &a.positional[i];
    } else {
      for (const auto& [name, value] : a.named)
        if (name == place) v = &value;
    }
    if (!v) refuse(fmt::format("a format has no value for {{{}}}", place));
    rt.room_for(out.size() + v->weight());
    out += to_text(*v);
    at = end;
  }
  return out;
}

template <bool start>
Value without(Runtime&, const Value& self, const Arguments& a) {
  const std::string &s = self.text()->bytes(), &part = wanted_text(a.bind("removeprefix", {"prefix"})[0], "removeprefix()").bytes();
  if (!(start ? s.starts_with(part) : s.ends_with(part))) return self;
  return start ? self.text()->substr(part.size()) : self.text()->substr(0, s.size() - part.size());
}

template <bool from_right>
Value partitioned(Runtime& rt, const Value& self, const Arguments& a) {
  rt.spend_on(self);
  const Value* by = a.bind("partition", {"sep"})[0];
  const Text &t = *self.text(), &sep = wanted_text(by, "partition()");
  if (sep.empty()) refuse("partition() wants a separator that is not empty");
  const size_t at = from_right ? t.bytes().rfind(sep.bytes()) : t.bytes().find(sep.bytes());
  if (at == std::string::npos) return from_right ? Value(List{Text(), Text(), t}, true) : Value(List{t, Text(), Text()}, true);
  return {List{t.substr(0, at), sep, t.substr(at + sep.size())}, true};
}

Value filled(Runtime& rt, const Value& self, const Arguments& a) {
  const Value* width = a.bind("zfill", {"width"})[0];
  const Text& t = *self.text();
  const int64_t missing = (width ? std::max<int64_t>(wanted_int(*width, "zfill()"), 0) : 0) - int64_t(length(t));
  if (missing <= 0) return self;
  rt.room_for(t.size() + size_t(missing));
  const bool sign = t.bytes().starts_with('-') || t.bytes().starts_with('+');
  return t.substr(0, sign) + Text(std::string(size_t(missing), '0')) + t.substr(sign);
}

constexpr std::array<Row, 33> of_text{{
    {"strip", stripped<true, true>}, {"lstrip", stripped<true, false>}, {"rstrip", stripped<false, true>},
    {"split", split<false>}, {"rsplit", split<true>}, {"splitlines", split_lines}, {"partition", partitioned<false>}, {"rpartition", partitioned<true>},
    {"startswith", begins<true>}, {"endswith", begins<false>}, {"removeprefix", without<true>}, {"removesuffix", without<false>},
    {"replace", replaced}, {"join", joined}, {"format", formatted}, {"zfill", filled},
    {"upper", mapped<upper>}, {"lower", mapped<lower>}, {"title", mapped<title>}, {"capitalize", mapped<capitalize>}, {"casefold", mapped<lower>},
    {"find", find_in<false>}, {"rfind", find_in<true>}, {"index", find_in<false>}, {"count", count_in},
    {"isspace", all_points<is_whitespace>}, {"isdigit", all_points<[](char32_t c) { return c >= '0' && c <= '9'; }>},
    {"isdecimal", all_points<[](char32_t c) { return c >= '0' && c <= '9'; }>}, {"isnumeric", all_points<is_numeric>},
    {"isalnum", all_points<[](char32_t c) { return c != '_' && is_word(c); }>},
    {"isalpha", all_points<[](char32_t c) { return c != '_' && is_word(c) && !is_numeric(c); }>},
    {"isupper", [](Runtime& rt, const Value& v, const Arguments& a) -> Value { return rt.tested("upper", v, a); }},
    {"islower", [](Runtime& rt, const Value& v, const Arguments& a) -> Value { return rt.tested("lower", v, a); }},
}};

template <bool key, bool value>
Value parts(Runtime& rt, const Value& self, const Arguments& a) {
  a.bind("a method", {});
  List out;
  rt.spend(1 + self.dict()->entries().size());
  for (const auto& [k, v] : self.dict()->entries()) {
    if constexpr (key && value) out.push_back({List{k, v}, true});
    else out.push_back(key ? k : v);
  }
  return out;
}
Value got(Runtime&, const Value& self, const Arguments& a) {
  const auto args = a.bind("get", {"key", "default"});
  if (!args[0]) refuse("get() wants a key");
  const Value* v = self.dict()->find(*args[0]);
  return v ? *v : args[1] ? *args[1] : Value();
}
Value itself(Runtime&, const Value& self, const Arguments&) { return self; }
Value changes(Runtime&, const Value& self, const Arguments&) {
  refuse(fmt::format("a template may not change a {}: use a namespace, + or a loop", type_name(self)));
}
Value position(Runtime& rt, const Value& self, const Arguments& a) {
  rt.spend_on(self);
  const Value* what = a.bind("index", {"value"})[0];
  const List& items = self.list()->items;
  const auto it = std::find_if(items.begin(), items.end(), [&](const Value& v) { return what && equal(v, *what); });
  if (it == items.end()) refuse("index() does not find the value");
  return int64_t(it - items.begin());
}

constexpr std::array<Row, 11> of_dict{{{"items", parts<true, true>}, {"keys", parts<true, false>}, {"values", parts<false, true>}, {"get", got}, {"copy", itself},
                                       {"update", changes}, {"pop", changes}, {"popitem", changes}, {"clear", changes}, {"setdefault", changes}, {"fromkeys", changes}}};
constexpr std::array<Row, 11> of_list{{{"index", position}, {"count", count_in}, {"copy", itself}, {"append", changes}, {"extend", changes}, {"insert", changes},
                                       {"pop", changes}, {"remove", changes}, {"reverse", changes}, {"sort", changes}, {"clear", changes}}};

template <class Rows>
Method find_in_rows(const Rows& rows, std::string_view name) {
  const auto it = std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return r.name == name; });
  return it == rows.end() ? nullptr : it->method;
}

Value range(Runtime& rt, const Arguments& a) {
  const auto args = a.bind("range", {"start", "stop", "step"});
  if (!args[0]) refuse("range() wants a number");
  const int64_t begin = args[1] ? wanted_int(*args[0], "range()") : 0, end = wanted_int(args[1] ? *args[1] : *args[0], "range()");
  const int64_t step = args[2] ? wanted_int(*args[2], "range()") : 1;
  if (step == 0) refuse("range() wants a step that is not 0");
  constexpr __int128 most = 100'000;  // as in Jinja2's sandbox
  const __int128 way = step > 0 ? __int128(end) - begin : __int128(begin) - end, stride = step > 0 ? __int128(step) : -__int128(step);
  const __int128 count = way <= 0 ? 0 : (way + stride - 1) / stride;
  if (count > most) refuse(fmt::format("range() of more than {} numbers", int64_t(most)));
  rt.spend(size_t(count));
  List out;
  for (int64_t i = 0; i < int64_t(count); ++i) out.emplace_back(int64_t(begin + __int128(i) * step));
  return out;
}

Dict dict_of(const Arguments& a) {
  Dict d;
  for (const Value& v : a.positional) {
    if (!v.dict()) refuse("dict() and namespace() want a dict or named values");
    for (const auto& [key, value] : v.dict()->entries()) d.set(key, value);
  }
  for (const auto& [name, value] : a.named) d.set(Text(name), value);
  return d;
}

Value space(Runtime&, const Arguments& a) {
  Dict d = dict_of(a);
  if (d.holds_reference()) refuse("a namespace may hold neither namespaces nor macros");
  return std::make_shared<Namespace>(Namespace{std::move(d)});
}

Value raise(Runtime&, const Arguments& a) {
  const Value* message = a.bind("raise_exception", {"message"})[0];
  throw Error(Fault::bad_input, {.what = "the chat template refuses the conversation", .found = message ? to_text(*message).bytes() : ""});
}

Value strftime(Runtime& rt, const Arguments& a) {
  const std::string& format = wanted_text(a.bind("strftime_now", {"format"})[0], "strftime_now()").bytes();
  if (format.size() > 256) refuse("strftime_now() wants a format of at most 256 bytes");
  char out[4096];
  return Text(std::string(out, std::strftime(out, sizeof out, format.c_str(), &rt.now())));
}

}  // namespace

Method find_method(const Value& self, std::string_view name) {
  if (self.text()) return find_in_rows(of_text, name);
  if (self.dict()) return find_in_rows(of_dict, name);
  return self.list() ? find_in_rows(of_list, name) : nullptr;
}

Value global(std::string_view name) {
  if (name == "range") return Function{"range", range};
  if (name == "dict") return Function{"dict", [](Runtime&, const Arguments& a) -> Value { return dict_of(a); }};
  if (name == "namespace") return Function{"namespace", space};
  if (name == "raise_exception") return Function{"raise_exception", raise};
  if (name == "strftime_now") return Function{"strftime_now", strftime};
  return Undefined{std::string(name)};
}

}  // namespace thimble::data::jinja
