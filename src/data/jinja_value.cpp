// Comparison, text and JSON of values, as Python has them.
#include "data/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "data/utf8.h"

namespace thimble::data::jinja {
namespace {

constexpr int deepest = 100;

constexpr size_t heaviest = SIZE_MAX / 4;
size_t sum(size_t a, size_t b) { return std::min(a + b, heaviest); }

std::string hash_key(const Value& v) {
  if (const Text* t = v.text()) return "s" + t->bytes();
  if (v.is_none()) return "none";
  if (v.is_number()) {  // 1, 1.0 and true are one key
    int64_t room = 0;
    if (const int64_t* i = v.integer(room)) return "n" + std::to_string(*i);
    const double d = v.number();
    return "n" + (d == std::floor(d) && std::fabs(d) < 0x1p53 ? std::to_string(int64_t(d)) : float_text(d));
  }
  refuse(fmt::format("a {} cannot be a key", type_name(v)));
}

Text quoted(const Text& text) {
  const std::string& s = text.bytes();
  const char quote = s.find('\'') != s.npos && s.find('"') == s.npos ? '"' : '\'';
  Text out(std::string(1, quote));
  for (size_t at = 0; at < s.size();) {
    const CodePoint c = code_point_at(s, at);
    const Origin o = text.origin(at);
    if (c.value == char32_t(quote) || c.value == '\\') out.append("\\", of_template).append(std::string(1, char(c.value)), o);
    else if (c.value == '\n') out.append("\\n", o);
    else if (c.value == '\r') out.append("\\r", o);
    else if (c.value == '\t') out.append("\\t", o);
    else if (c.value < 0x20 || (c.value >= 0x7f && c.value <= 0xa0) || c.value == 0xad) out.append(fmt::format("\\x{:02x}", uint32_t(c.value)), o);
    else out.append(std::string_view(s).substr(at, size_t(c.bytes)), o);
    at += size_t(c.bytes);
  }
  return out.append(std::string(1, quote), of_template);
}

Text json_string(const Text& text, bool ascii) {
  Text out("\"");
  const std::string& s = text.bytes();
  for (size_t at = 0; at < s.size();) {
    const CodePoint c = code_point_at(s, at);
    const Origin o = text.origin(at);
    const auto escape = [&](uint32_t unit) { out.append(fmt::format("\\u{:04x}", unit), o); };
    switch (c.value) {
      case '"': out.append("\\\"", o); break;
      case '\\': out.append("\\\\", o); break;
      case '\n': out.append("\\n", o); break;
      case '\r': out.append("\\r", o); break;
      case '\t': out.append("\\t", o); break;
      case '\b': out.append("\\b", o); break;
      case '\f': out.append("\\f", o); break;
      default:
        if (c.value >= 0x10000 && ascii) {
          escape(uint32_t(0xd800 + ((c.value - 0x10000) >> 10)));
          escape(uint32_t(0xdc00 + ((c.value - 0x10000) & 0x3ff)));
        } else if (c.value < 0x20 || (ascii && c.value > 0x7e)) {
          escape(uint32_t(c.value));
        } else {
          out.append(std::string_view(s).substr(at, size_t(c.bytes)), o);
        }
    }
    at += size_t(c.bytes);
  }
  return out.append("\"", of_template);
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}
  Text text;

  void write(const Value& v, int level) {
    if (const Text* t = v.text()) text += json_string(*t, style_.ascii);
    else if (v.is_none()) text += "null";
    else if (const bool* b = v.get<bool>()) text += *b ? "true" : "false";
    else if (v.is_number()) text += number(v);
    else if (const Sequence* l = v.list()) {
      bracket('[', ']', l->items.size(), level, [&](size_t i) { write(l->items[i], level + 1); });
    } else if (const Dict* d = v.dict()) {
      std::vector<const std::pair<Value, Value>*> order;
      for (const auto& e : d->entries()) order.push_back(&e);
      if (style_.sort_keys) std::stable_sort(order.begin(), order.end(), [](auto* a, auto* b) { return compare(a->first, b->first) < 0; });
      bracket('{', '}', order.size(), level, [&](size_t i) {
        write_key(order[i]->first);
        text += Text(style_.colon);
        write(order[i]->second, level + 1);
      });
    } else {
      refuse(fmt::format("a value of type {} cannot be written as JSON{}", type_name(v),
                         v.is_undefined() ? fmt::format(" ('{}' is undefined)", v.get<Undefined>()->name) : ""));
    }
  }

 private:
  static Text number(const Value& v) {
    const double* d = v.get<double>();
    if (d && !std::isfinite(*d)) return std::isnan(*d) ? "NaN" : *d > 0 ? "Infinity" : "-Infinity";
    return to_text(v);
  }
  void write_key(const Value& key) {
    if (key.text()) return write(key, 0);
    text += "\"";
    write(key, 0);
    text += "\"";
  }
  template <class F>
  void bracket(char open, char close, size_t count, int level, F&& item) {
    text += Text(std::string(1, open));
    for (size_t i = 0; i < count; ++i) {
      if (i) text += Text(style_.between);
      new_line(level + 1);
      item(i);
    }
    if (count) new_line(level);
    text += Text(std::string(1, close));
  }
  void new_line(int level) {
    if (!style_.indent) return;
    text += "\n";
    for (int i = 0; i < level; ++i) text += Text(*style_.indent);
  }
  const JsonStyle& style_;
};

template <class T>
int three_way(const T& a, const T& b) { return a < b ? -1 : b < a ? 1 : 0; }

}  // namespace

void refuse(std::string what) { throw Error(Fault::bad_input, {.what = "the chat template fails", .found = std::move(what)}); }

Value::Value(List items, bool tuple) {
  Sequence s{std::move(items), tuple};
  for (const Value& v : s.items) s.depth = std::max(s.depth, v.depth() + 1), s.weight = sum(s.weight, v.weight()), s.holds_reference |= v.holds_reference();
  if (s.depth > deepest) refuse(fmt::format("lists nested deeper than {}", deepest));
  data_ = std::make_shared<const Sequence>(std::move(s));
}
Value::Value(Dict d) {
  if (d.depth() > deepest) refuse(fmt::format("dicts nested deeper than {}", deepest));
  data_ = std::make_shared<const Dict>(std::move(d));
}
Value::Value(Function f) : data_(std::make_shared<const Function>(std::move(f))) {}

Value Value::from_json(const Json& j, Origin origin) {
  switch (j.type()) {
    case Json::value_t::boolean: return j.get<bool>();
    case Json::value_t::number_integer: return j.get<int64_t>();
    case Json::value_t::number_unsigned: return j.get<uint64_t>() <= uint64_t(INT64_MAX) ? Value(j.get<int64_t>()) : Value(j.get<double>());
    case Json::value_t::number_float: return j.get<double>();
    case Json::value_t::string: return Text(j.get<std::string>(), origin);
    case Json::value_t::array: {
      List items;
      items.reserve(j.size());
      for (const Json& x : j) items.push_back(from_json(x, origin));
      return items;
    }
    case Json::value_t::object: {
      Dict d;
      for (const auto& [key, x] : j.items()) d.set(Text(key, origin), from_json(x, origin));
      return d;
    }
    default: return {};
  }
}

double Value::number() const {
  if (const bool* b = get<bool>()) return *b;
  if (const int64_t* i = get<int64_t>()) return double(*i);
  return *get<double>();
}
const int64_t* Value::integer(int64_t& room) const {
  if (const bool* b = get<bool>()) return room = *b, &room;
  return get<int64_t>();
}

bool Value::truth() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return number() != 0;
  if (const Text* t = text()) return !t->empty();
  if (const Sequence* l = list()) return !l->items.empty();
  if (const Dict* d = dict()) return !d->entries().empty();
  return true;
}
int Value::depth() const { return list() ? list()->depth : dict() ? dict()->depth() : 0; }
size_t Value::weight() const { return text() ? text()->size() : list() ? list()->weight : dict() ? dict()->weight() : 1; }
bool Value::holds_reference() const {
  return list() ? list()->holds_reference : dict() ? dict()->holds_reference() : space() || get<Function>();
}

const Value* Dict::find(const Value& key) const {
  if (key.list() || key.dict() || key.is_undefined() || key.space() || key.get<Function>()) return nullptr;
  const auto it = index_.find(hash_key(key));
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}
const Value* Dict::find(std::string_view key) const {
  const auto it = index_.find("s" + std::string(key));
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}
void Dict::set(const Value& key, Value value) {
  depth_ = std::max(depth_, value.depth() + 1);
  weight_ = sum(weight_, sum(key.weight(), value.weight()));
  holds_reference_ |= value.holds_reference();
  const auto [it, is_new] = index_.try_emplace(hash_key(key), entries_.size());
  if (is_new) entries_.emplace_back(key, std::move(value));
  else entries_[it->second].second = std::move(value);
}

std::vector<const Value*> Arguments::bind(std::string_view function, std::initializer_list<std::string_view> names) const {
  std::vector<const Value*> out(names.size());
  if (positional.size() > names.size())
    refuse(fmt::format("{}() takes at most {} arguments, not {}", function, names.size(), positional.size()));
  for (size_t i = 0; i < positional.size(); ++i) out[i] = &positional[i];
  for (const auto& [name, value] : named) {
    const auto it = std::find(names.begin(), names.end(), name);
    if (it == names.end()) refuse(fmt::format("{}() has no argument '{}'", function, name));
    const auto i = size_t(it - names.begin());
    if (out[i]) refuse(fmt::format("{}() got two values for '{}'", function, name));
    out[i] = &value;
  }
  return out;
}

std::string type_name(const Value& v) {
  if (v.is_undefined()) return "Undefined";
  if (v.is_none()) return "NoneType";
  if (v.get<bool>()) return "bool";
  if (v.get<int64_t>()) return "int";
  if (v.get<double>()) return "float";
  if (v.text()) return "str";
  if (v.list()) return v.list()->tuple ? "tuple" : "list";
  if (v.dict()) return "dict";
  return v.space() ? "Namespace" : "function";
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    int64_t i = 0, j = 0;
    const int64_t *x = a.integer(i), *y = b.integer(j);
    return x && y ? *x == *y : a.number() == b.number();
  }
  if (a.text() && b.text()) return a.text()->bytes() == b.text()->bytes();
  if (a.list() && b.list()) {
    return a.list()->tuple == b.list()->tuple &&
           std::equal(a.list()->items.begin(), a.list()->items.end(), b.list()->items.begin(), b.list()->items.end(), equal);
  }
  if (a.dict() && b.dict()) {
    const auto& entries = a.dict()->entries();
    return entries.size() == b.dict()->entries().size() && std::all_of(entries.begin(), entries.end(), [&](const auto& e) {
             const Value* other = b.dict()->find(e.first);
             return other && equal(e.second, *other);
           });
  }
  if (a.space() || b.space()) return a.space() == b.space();
  if (a.get<Function>() || b.get<Function>()) return a.get<Function>() == b.get<Function>();
  return (a.is_undefined() && b.is_undefined()) || (a.is_none() && b.is_none());
}

int compare(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    int64_t i = 0, j = 0;
    const int64_t *x = a.integer(i), *y = b.integer(j);
    return x && y ? three_way(*x, *y) : three_way(a.number(), b.number());
  }
  if (a.text() && b.text()) return three_way(a.text()->bytes(), b.text()->bytes());
  if (a.list() && b.list() && a.list()->tuple == b.list()->tuple) {
    const List &x = a.list()->items, &y = b.list()->items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(x[i], y[i])) return compare(x[i], y[i]);
    return three_way(x.size(), y.size());
  }
  refuse(fmt::format("{} and {} have no order", type_name(a), type_name(b)));
}

std::string float_text(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char room[64];
  const auto end = std::to_chars(room, room + sizeof room, d, std::chars_format::scientific).ptr;
  std::string s(room, end);
  const int exponent = std::stoi(s.substr(s.find('e') + 1));
  if (exponent < -4 || exponent >= 16) return s;  // "1e+16" as in Python
  s.assign(room, std::to_chars(room, room + sizeof room, d, std::chars_format::fixed).ptr);
  return s.find('.') == s.npos ? s + ".0" : s;
}

Text to_text(const Value& v) {
  if (v.is_undefined()) return {};
  if (const Text* t = v.text()) return *t;
  return to_repr(v);
}

Text to_repr(const Value& v) {
  if (v.is_undefined()) return "Undefined";
  if (v.is_none()) return "None";
  if (const bool* b = v.get<bool>()) return *b ? "True" : "False";
  if (const int64_t* i = v.get<int64_t>()) return std::to_string(*i);
  if (const double* d = v.get<double>()) return float_text(*d);
  if (const Text* t = v.text()) return quoted(*t);
  if (const Sequence* l = v.list()) {
    Text out(l->tuple ? "(" : "[");
    for (size_t i = 0; i < l->items.size(); ++i) out += (i ? Text(", ") : Text()) + to_repr(l->items[i]);
    return out += l->tuple ? l->items.size() == 1 ? ",)" : ")" : "]";
  }
  if (const Dict* d = v.dict()) {
    Text out("{");
    for (size_t i = 0; i < d->entries().size(); ++i) {
      const auto& [key, value] = d->entries()[i];
      out += (i ? Text(", ") : Text()) + to_repr(key) + ": " + to_repr(value);
    }
    return out += "}";
  }
  return v.space() ? "<Namespace>" : Text("<function " + v.get<Function>()->name + ">");
}

Text to_json(const Value& v, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(v, 0);
  return std::move(writer.text);
}

}  // namespace thimble::data::jinja
