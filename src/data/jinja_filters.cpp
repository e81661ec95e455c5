// What may stand behind |, with Jinja2's arguments and defaults. Lazy filters of Jinja2 are lists here: a template cannot tell, but
// that it may walk them twice.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/decimal.h"
#include "data/jinja_runtime.h"
#include "data/utf8.h"

namespace thimble::data::jinja {
namespace {

struct Row {
  std::string_view name;
  Filter filter;
};

int64_t whole(const Value* v, int64_t otherwise, std::string_view what) {
  if (!v || v->is_none()) return otherwise;
  int64_t room = 0;
  const int64_t* i = v->integer(room);
  if (!i) refuse(fmt::format("{} wants an int, not a {}", what, type_name(*v)));
  return *i;
}
bool flag(const Value* v, bool otherwise = false) { return v ? v->truth() : otherwise; }
Text text_or(const Value* v, const char* otherwise) { return v && !v->is_none() ? to_text(*v) : Text(otherwise); }

template <Text (*f)(const Text&)>
Value text_filter(Runtime& rt, const Value& v, const Arguments& a) {
  a.bind("a filter", {});
  rt.spend_on(v);
  return f(to_text(v));
}

// "a.b.0" of each item, or the item itself where there is no path.
Value follow(Runtime& rt, Value v, const Value* path) {
  if (!path || path->is_none()) return v;
  int64_t room = 0;
  if (path->integer(room)) return item(rt, v, *path);
  const std::string all = to_text(*path).bytes();
  for (size_t begin = 0; begin <= all.size();) {
    const size_t end = std::min(all.find('.', begin), all.size());
    const std::string part = all.substr(begin, end - begin);
    const bool digits = !part.empty() && part.size() < 10 && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    v = digits ? item(rt, v, int64_t(std::stoll(part))) : item(rt, v, Text(part));
    begin = end + 1;
  }
  return v;
}

Value folded(const Value& v, bool case_sensitive) { return v.text() && !case_sensitive ? Value(lower(*v.text())) : v; }

// Sorted by a key, stable.
template <class Key>
List sorted(Runtime& rt, const List& items, bool backwards, Key&& key) {
  std::vector<std::pair<Value, Value>> keyed;
  size_t weight = 0;
  for (const Value& v : items) keyed.emplace_back(key(v), v), weight += std::min(keyed.back().first.weight(), SIZE_MAX / 1024 / (items.size() + 1));
  rt.spend((items.size() + weight / 16) * (1 + size_t(std::log2(double(items.size() + 1)))));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) { return backwards ? compare(b.first, a.first) < 0 : compare(a.first, b.first) < 0; });
  List out;
  for (auto& [k, v] : keyed) out.push_back(std::move(v));
  return out;
}

Arguments rest_of(const Arguments& a, size_t from) {
  return {List(a.positional.begin() + std::ptrdiff_t(std::min(from, a.positional.size())), a.positional.end()), a.named};
}

template <bool keep, bool by_attribute>
Value select(Runtime& rt, const Value& v, const Arguments& a) {
  if (by_attribute && a.positional.empty()) refuse("selectattr and rejectattr want the name of an attribute");
  const size_t test_at = by_attribute ? 1 : 0;
  const bool has_test = a.positional.size() > test_at;
  const std::string test = has_test ? to_text(a.positional[test_at]).bytes() : "";
  const Arguments rest = rest_of(a, test_at + 1);
  List out;
  for (const Value& x : items_of(rt, v)) {
    const Value subject = by_attribute ? follow(rt, x, &a.positional[0]) : x;
    if ((has_test ? rt.tested(test, subject, rest) : subject.truth()) == keep) out.push_back(x);
  }
  return out;
}

Value map(Runtime& rt, const Value& v, const Arguments& a) {
  List out;
  const Value *path = nullptr, *otherwise = nullptr;
  for (const auto& [name, value] : a.named)
    if (name == "attribute") path = &value;
    else if (name == "default") otherwise = &value;
  if (a.positional.empty() && !path) refuse("map wants a filter or an attribute");
  for (const Value& x : items_of(rt, v)) {
    if (!a.positional.empty()) {
      out.push_back(rt.filtered(to_text(a.positional[0]).bytes(), x, rest_of(a, 1)));
      continue;
    }
    Value found = follow(rt, x, path);
    out.push_back(found.is_undefined() && otherwise ? *otherwise : std::move(found));
  }
  return out;
}

Value join(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("join", {"d", "attribute"});
  const Text between = text_or(args[0], "");
  Text out;
  bool first = true;
  for (const Value& x : items_of(rt, v)) {
    const Value part = follow(rt, x, args[1]);
    rt.spend_on(part);
    rt.room_for(out.size() / 16 + between.size() + part.weight());
    if (!first) out += between;
    out += to_text(part);
    first = false;
    rt.room_for(out.size() / 16);
  }
  rt.room_for(out.size());
  return out;
}

Value replace_filter(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("replace", {"old", "new", "count"});
  if (!args[0] || !args[1]) refuse("replace wants what to replace, and with what");
  const Text text = to_text(v), to = to_text(*args[1]);
  const std::string from = to_text(*args[0]).bytes();
  size_t found = from.empty() ? text.size() + 1 : 0;
  for (size_t at = from.empty() ? std::string::npos : text.bytes().find(from); at != std::string::npos; at = text.bytes().find(from, at + from.size())) ++found;
  rt.room_for(text.size() + found * std::min(to.size(), SIZE_MAX / 4 / (found + 1)));
  return replace(text, from, to, whole(args[2], -1, "replace"));
}

Value default_filter(Runtime&, const Value& v, const Arguments& a) {
  const auto args = a.bind("default", {"default_value", "boolean"});
  return v.is_undefined() || (flag(args[1]) && !v.truth()) ? args[0] ? *args[0] : Value(Text()) : v;
}

Value trim(Runtime& rt, const Value& v, const Arguments& a) {
  const Value* chars = a.bind("trim", {"chars"})[0];
  rt.spend_on(v);
  const Text text = to_text(v);
  if (!chars || chars->is_none()) return strip(text, nullptr, true, true);
  const Text these = to_text(*chars);
  return strip(text, &these, true, true);
}

Value tojson(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style{.ascii = flag(args[0]), .sort_keys = flag(args[3])};
  if (args[1] && !args[1]->is_none()) {
    const int64_t width = args[1]->text() ? 0 : whole(args[1], 0, "indent");
    if (width > 64) refuse("tojson indents by at most 64");
    if (args[1]->text()) style.indent = args[1]->text()->bytes();
    else style.indent.emplace(size_t(std::max<int64_t>(width, 0)), ' ');
    style.between.erase(1);  // no blank before the end of a line
  }
  if (args[2] && !args[2]->is_none()) {
    const List pair = items_of(rt, *args[2]);
    if (pair.size() != 2) refuse("tojson wants two separators");
    style.between = to_text(pair[0]).bytes(), style.colon = to_text(pair[1]).bytes();
  }
  rt.room_for(v.weight());
  return to_json(v, style);
}

Value indent(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("indent", {"width", "first", "blank"});
  const Text text = to_text(v);
  const int64_t width = args[0] && args[0]->text() ? 0 : whole(args[0], 4, "indent");
  if (width > 4096) refuse("indent wants a width of at most 4096");
  const Text by = args[0] && args[0]->text() ? *args[0]->text() : Text(std::string(size_t(std::max<int64_t>(width, 0)), ' '));
  const auto lines = size_t(std::count(text.bytes().begin(), text.bytes().end(), '\n')) + 1;
  rt.room_for(text.size() + lines * std::min(by.size(), SIZE_MAX / 4 / lines));
  Text out;
  size_t begin = 0;
  for (bool first = true;; first = false) {
    const size_t end = std::min(text.bytes().find('\n', begin), text.size());
    const Text line = text.substr(begin, end - begin);
    if (first ? flag(args[1]) : flag(args[2]) || !line.empty()) out += by;
    out += line;
    if (end == text.size()) return out;
    out += text.substr(end, 1);
    begin = end + 1;
  }
}

Value to_int(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("int", {"default", "base"});
  const Value otherwise = args[0] ? *args[0] : Value(int64_t{0});
  if (const double* d = v.get<double>()) return std::isfinite(*d) && std::fabs(*d) < 9.2e18 ? Value(int64_t(*d)) : otherwise;
  int64_t value = 0;
  if (const int64_t* i = v.integer(value)) return *i;
  if (!v.text()) return otherwise;
  rt.spend_on(v);
  const std::string s = strip(*v.text(), nullptr, true, true).bytes();
  const bool plus = s.starts_with('+');
  const auto r = std::from_chars(s.data() + plus, s.data() + s.size(), value, int(std::clamp<int64_t>(whole(args[1], 10, "int"), 2, 36)));
  if (r.ec == std::errc() && r.ptr == s.data() + s.size()) return value;
  const auto d = read_decimal(std::string_view(s).substr(plus));
  return d && std::fabs(*d) < 9.2e18 ? Value(int64_t(*d)) : otherwise;
}

Value to_float(Runtime& rt, const Value& v, const Arguments& a) {
  const Value* otherwise = a.bind("float", {"default"})[0];
  if (v.is_number()) return v.number();
  if (v.text()) {
    rt.spend_on(v);
    const std::string s = strip(*v.text(), nullptr, true, true).bytes();
    if (const auto d = read_decimal(std::string_view(s).substr(s.starts_with('+')))) return *d;
  }
  return otherwise ? *otherwise : Value(0.0);
}

Value absolute(Runtime&, const Value& v, const Arguments&) {
  int64_t room = 0;
  if (!v.is_number()) refuse(fmt::format("abs wants a number, not a {}", type_name(v)));
  if (const int64_t* i = v.integer(room); i && *i != INT64_MIN) return *i < 0 ? -*i : *i;
  return std::fabs(v.number());
}

Value rounded(Runtime&, const Value& v, const Arguments& a) {
  const auto args = a.bind("round", {"precision", "method"});
  if (!v.is_number()) refuse(fmt::format("round wants a number, not a {}", type_name(v)));
  const int64_t digits = std::clamp<int64_t>(whole(args[0], 0, "round"), -300, 300);
  const std::string how = text_or(args[1], "common").bytes();
  const double scale = std::pow(10.0, double(digits)), x = v.number();
  if (how == "ceil") return std::ceil(x * scale) / scale;
  if (how == "floor") return std::floor(x * scale) / scale;
  if (how != "common") refuse("round wants common, ceil or floor");
  int64_t room = 0;
  if (v.integer(room) && digits >= 0) return *v.integer(room);
  if (digits < 0 || digits > 17) return std::nearbyint(x * scale) / scale;
  return std::strtod(fmt::format("{:.{}f}", x, digits).c_str(), nullptr);  // to even, of the decimal value, as Python does
}

Value first(Runtime& rt, const Value& v, const Arguments& a) {
  a.bind("first", {});
  const List items = items_of(rt, v);
  return items.empty() ? Undefined{"the first item of nothing"} : items.front();
}
Value last(Runtime& rt, const Value& v, const Arguments& a) {
  a.bind("last", {});
  const List items = items_of(rt, v);
  return items.empty() ? Undefined{"the last item of nothing"} : items.back();
}

template <bool largest>
Value extreme(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("min", {"case_sensitive", "attribute"});
  const List items = sorted(rt, items_of(rt, v), largest, [&](const Value& x) { return folded(follow(rt, x, args[1]), flag(args[0])); });
  return items.empty() ? Undefined{"an extreme of nothing"} : items.front();
}

Value sum(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("sum", {"attribute", "start"});
  Value total = args[1] ? *args[1] : Value(int64_t{0});
  for (const Value& x : items_of(rt, v)) total = operate(rt, "+", total, follow(rt, x, args[0]));
  return total;
}

Value sort(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("sort", {"reverse", "case_sensitive", "attribute"});
  return sorted(rt, items_of(rt, v), flag(args[0]), [&](const Value& x) { return folded(follow(rt, x, args[2]), flag(args[1])); });
}

Value dictsort(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("dictsort", {"case_sensitive", "by", "reverse"});
  const std::string by = text_or(args[1], "key").bytes();
  if (!v.dict() || (by != "key" && by != "value")) refuse("dictsort wants a dict, and to sort it by key or value");
  List pairs;
  for (const auto& [key, value] : v.dict()->entries()) pairs.push_back({List{key, value}, true});
  return sorted(rt, pairs, flag(args[2]), [&](const Value& x) { return folded(x.list()->items[by == "value"], flag(args[0])); });
}

Value unique(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("unique", {"case_sensitive", "attribute"});
  Dict seen;
  List out;
  for (const Value& x : items_of(rt, v)) {
    const Value key = folded(follow(rt, x, args[1]), flag(args[0]));
    rt.spend_on(key);
    if (seen.find(key)) continue;
    seen.set(key, true);
    out.push_back(x);
  }
  return out;
}

Value groupby(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("groupby", {"attribute", "default", "case_sensitive"});
  const auto key = [&](const Value& x) {
    const Value k = follow(rt, x, args[0]);
    return folded(k.is_undefined() && args[1] ? *args[1] : k, flag(args[2]));
  };
  List out;
  std::vector<std::pair<Value, List>> groups;
  for (const Value& x : sorted(rt, items_of(rt, v), false, key)) {
    if (groups.empty() || !equal(key(groups.back().second.front()), key(x))) groups.push_back({follow(rt, x, args[0]), {}});
    groups.back().second.push_back(x);
  }
  for (auto& [k, items] : groups) out.push_back({List{k, std::move(items)}, true});
  return out;
}

Value reverse(Runtime& rt, const Value& v, const Arguments& a) {
  a.bind("reverse", {});
  List items = items_of(rt, v);
  std::reverse(items.begin(), items.end());
  if (!v.text()) return items;
  Text out;
  for (const Value& x : items) out += *x.text();
  return out;
}

Value batch(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("batch", {"linecount", "fill_with"});
  const int64_t n = whole(args[0], 0, "batch");
  if (n < 1) refuse("batch wants a count above 0");
  List out, row;
  for (const Value& x : items_of(rt, v)) {
    row.push_back(x);
    if (int64_t(row.size()) == n) out.emplace_back(std::exchange(row, {}));
  }
  if (row.empty()) return out;
  if (args[1] && !args[1]->is_none()) {
    rt.spend(size_t(n));
    row.resize(size_t(n), *args[1]);
  }
  out.emplace_back(std::move(row));
  return out;
}

Value slice(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("slice", {"slices", "fill_with"});
  const int64_t n = whole(args[0], 0, "slice");
  if (n < 1) refuse("slice wants a count above 0");
  rt.spend(size_t(n));
  const List items = items_of(rt, v);
  const size_t each = items.size() / size_t(n), more = items.size() % size_t(n);
  List out;
  auto at = items.begin();
  for (size_t i = 0; i < size_t(n); ++i) {
    const auto end = at + std::ptrdiff_t(each + (i < more));
    List part(at, end);
    if (args[1] && !args[1]->is_none() && i >= more && more > 0) part.push_back(*args[1]);
    out.emplace_back(std::move(part));
    at = end;
  }
  return out;
}

Value truncate(Runtime& rt, const Value& v, const Arguments& a) {
  const auto args = a.bind("truncate", {"length", "killwords", "end", "leeway"});
  rt.spend_on(v);
  const Text text = to_text(v), end = text_or(args[2], "...");
  const int64_t most = whole(args[0], 255, "truncate"), leeway = whole(args[3], 5, "truncate"), of_end = int64_t(length(end));
  if (most < of_end || leeway < 0) refuse("truncate wants a length that holds what it ends with");
  if (int64_t(length(text)) - most <= leeway) return text;
  Text cut = text.substr(0, byte_of(text, size_t(most - of_end)));
  if (!flag(args[1])) {
    if (const size_t blank = cut.bytes().rfind(' '); blank != std::string::npos) cut = cut.substr(0, blank);
  }
  return cut + end;
}

Value center(Runtime& rt, const Value& v, const Arguments& a) {
  const Text text = to_text(v);
  const int64_t width = std::max<int64_t>(whole(a.bind("center", {"width"})[0], 80, "center"), 0), missing = width - int64_t(length(text));
  if (missing <= 0) return text;
  rt.room_for(text.size() + size_t(missing));
  const int64_t left = missing / 2 + (missing & width & 1);
  return Text(std::string(size_t(left), ' ')) + text + Text(std::string(size_t(missing - left), ' '));
}

Value escape(Runtime& rt, const Value& v, const Arguments&) {
  rt.room_for(v.weight() * 5);
  Text out = replace(to_text(v), "&", "&amp;");
  out = replace(replace(out, "<", "&lt;"), ">", "&gt;");
  return replace(replace(out, "'", "&#39;"), "\"", "&#34;");
}

Value items(Runtime& rt, const Value& v, const Arguments&) {
  if (v.is_undefined()) return List{};
  if (!v.dict()) refuse(fmt::format("items wants a dict, not a {}", type_name(v)));
  return find_method(v, "items")(rt, v, {});
}

Value format(Runtime& rt, const Value& v, const Arguments& a) { return percent_format(rt, to_text(v), a.positional); }
Value count(Runtime&, const Value& v, const Arguments&) { return length_of(v); }
Value string(Runtime& rt, const Value& v, const Arguments&) {
  rt.room_for(v.weight());
  return to_text(v);
}
Value list(Runtime& rt, const Value& v, const Arguments&) { return items_of(rt, v); }
Value attr(Runtime& rt, const Value& v, const Arguments& a) {
  const Value* name = a.bind("attr", {"name"})[0];
  return name && !v.dict() ? attribute(rt, v, to_text(*name).bytes()) : Undefined{"attr"};
}
Value word_count(Runtime& rt, const Value& v, const Arguments&) {
  return int64_t(items_of(rt, find_method(Text(), "split")(rt, to_text(v), {})).size());
}

constexpr std::array<Row, 46> rows{{
    {"trim", trim}, {"tojson", tojson}, {"length", count}, {"count", count}, {"default", default_filter}, {"d", default_filter},
    {"join", join}, {"replace", replace_filter}, {"map", map}, {"select", select<true, false>}, {"reject", select<false, false>},
    {"selectattr", select<true, true>}, {"rejectattr", select<false, true>}, {"upper", text_filter<upper>}, {"lower", text_filter<lower>},
    {"title", text_filter<title_words>}, {"capitalize", text_filter<capitalize>}, {"string", string}, {"list", list}, {"items", items},
    {"first", first}, {"last", last}, {"reverse", reverse}, {"unique", unique}, {"sort", sort}, {"dictsort", dictsort}, {"groupby", groupby},
    {"batch", batch}, {"slice", slice}, {"int", to_int}, {"float", to_float}, {"abs", absolute}, {"round", rounded}, {"sum", sum},
    {"min", extreme<false>}, {"max", extreme<true>}, {"indent", indent}, {"truncate", truncate}, {"center", center}, {"format", format},
    {"safe", string}, {"escape", escape}, {"e", escape}, {"forceescape", escape}, {"attr", attr}, {"wordcount", word_count},
}};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto it = std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return r.name == name; });
  return it == rows.end() ? nullptr : it->filter;
}

}  // namespace thimble::data::jinja
