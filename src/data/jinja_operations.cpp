// Operators, look-ups and walks, as Python and Jinja2's sandbox do them.
#include <algorithm>
#include <cmath>

#include "data/jinja_runtime.h"
#include "data/utf8.h"

namespace thimble::data::jinja {
namespace {

[[noreturn]] void no_operator(std::string_view op, const Value& a, const Value& b) {
  for (const Value* v : {&a, &b})
    if (v->is_undefined()) refuse(fmt::format("'{}' is undefined", v->get<Undefined>()->name));
  refuse(fmt::format("{} cannot be used between {} and {}", op, type_name(a), type_name(b)));
}

Value whole(__int128 v) {
  if (v > INT64_MAX || v < INT64_MIN) refuse("a number is too large for 64 bits");
  return int64_t(v);
}

Value integer_power(int64_t a, int64_t b) {
  if (b < 0) return std::pow(double(a), double(b));
  __int128 v = 1;
  for (; b > 0; --b) {
    v *= a;
    if (v > INT64_MAX || v < INT64_MIN) refuse("a number is too large for 64 bits");
    if (v == 0 || v == 1) break;
    if (v == -1 && a == -1) return b % 2 ? int64_t{-1} : int64_t{1};
  }
  return whole(v);
}

Value arithmetic(std::string_view op, const Value& a, const Value& b) {
  int64_t i = 0, j = 0;
  const int64_t *x = a.integer(i), *y = b.integer(j);
  if ((op == "/" || op == "//" || op == "%") && b.number() == 0) refuse("a division by zero");
  if (x && y) {
    const __int128 m = *x, n = *y;
    if (op == "+") return whole(m + n);
    if (op == "-") return whole(m - n);
    if (op == "*") return whole(m * n);
    if (op == "//") return whole(m / n - (m % n != 0 && (m % n < 0) != (n < 0)));
    if (op == "%") return whole(m % n + (m % n != 0 && (m % n < 0) != (n < 0) ? n : 0));
    if (op == "**") return integer_power(*x, *y);
  }
  const double p = a.number(), q = b.number();
  if (op == "+") return p + q;
  if (op == "-") return p - q;
  if (op == "*") return p * q;
  if (op == "/") return p / q;
  if (op == "//") return std::floor(p / q);
  if (op == "**") return std::pow(p, q);
  const double r = std::fmod(p, q);
  return r != 0 && (r < 0) != (q < 0) ? r + q : r;
}

Value repeated(Runtime& rt, const Value& v, int64_t times) {
  times = std::max<int64_t>(times, 0);
  const auto product = [&](size_t n) { return n == 0 || times == 0 ? 0 : n > SIZE_MAX / 2 / size_t(times) ? SIZE_MAX / 2 : n * size_t(times); };
  if (const Text* t = v.text()) {
    rt.room_for(product(t->size()));
    Text out;
    for (int64_t i = 0; i < times && !t->empty(); ++i) out += *t;
    return out;
  }
  const List& items = v.list()->items;
  rt.spend(product(items.size()));
  List out;
  for (int64_t i = 0; i < times && !items.empty(); ++i) out.insert(out.end(), items.begin(), items.end());
  return {std::move(out), v.list()->tuple};
}

}  // namespace

Value operate(Runtime& rt, std::string_view op, const Value& a, const Value& b) {
  if (op == "~") {
    rt.room_for(a.weight() + b.weight());
    return to_text(a) + to_text(b);
  }
  if (a.is_number() && b.is_number()) return arithmetic(op, a, b);
  int64_t room = 0;
  if (op == "+" && a.text() && b.text()) {
    rt.room_for(a.text()->size() + b.text()->size());
    return *a.text() + *b.text();
  }
  if (op == "+" && a.list() && b.list() && a.list()->tuple == b.list()->tuple) {
    rt.spend(a.list()->items.size() + b.list()->items.size());
    List out = a.list()->items;
    out.insert(out.end(), b.list()->items.begin(), b.list()->items.end());
    return {std::move(out), a.list()->tuple};
  }
  if (op == "*" && (a.text() || a.list()) && b.integer(room)) return repeated(rt, a, *b.integer(room));
  if (op == "*" && (b.text() || b.list()) && a.integer(room)) return repeated(rt, b, *a.integer(room));
  if (op == "%" && a.text()) return percent_format(rt, *a.text(), b.list() && b.list()->tuple ? b.list()->items : List{b});
  no_operator(op, a, b);
}

Value attribute(Runtime&, const Value& object, const std::string& name) {
  if (object.is_undefined()) refuse(fmt::format("'{}' is undefined, so it has no '{}'", object.get<Undefined>()->name, name));
  if (name.starts_with("__")) refuse(fmt::format("the attribute '{}' of a {} is not for templates", name, type_name(object)));
  if (const Namespace* n = object.space()) {
    const Value* v = n->values.find(name);
    return v ? *v : Undefined{name};
  }
  if (const Method method = find_method(object, name))
    return Function{name, [object, method](Runtime& rt, const Arguments& a) { return method(rt, object, a); }};
  if (const Dict* d = object.dict())
    if (const Value* v = d->find(name)) return *v;
  return Undefined{name};
}

Value item(Runtime& rt, const Value& object, const Value& key) {
  if (object.is_undefined()) refuse(fmt::format("'{}' is undefined, so it has no items", object.get<Undefined>()->name));
  int64_t room = 0;
  if (const Dict* d = object.dict()) {
    if (const Value* v = d->find(key)) return *v;
  } else if (const int64_t* i = key.integer(room); i && (object.list() || object.text())) {
    const int64_t n = length_of(object), at = *i < 0 ? *i + n : *i;
    if (at < 0 || at >= n) return Undefined{fmt::format("item {}", *i)};
    if (object.list()) return object.list()->items[size_t(at)];
    rt.spend(object.text()->size() / 16);
    const size_t begin = byte_of(*object.text(), size_t(at));
    return object.text()->substr(begin, size_t(code_point_at(object.text()->bytes(), begin).bytes));
  }
  if (key.text()) return attribute(rt, object, key.text()->bytes());
  return Undefined{to_text(key).bytes()};
}

List items_of(Runtime& rt, const Value& v) {
  rt.spend(1);
  if (v.is_undefined()) return {};
  if (const Sequence* l = v.list()) {
    rt.spend(l->items.size());
    return l->items;
  }
  List out;
  if (const Dict* d = v.dict()) {
    rt.spend(d->entries().size());
    for (const auto& e : d->entries()) out.push_back(e.first);
    return out;
  }
  if (const Text* t = v.text()) {
    rt.spend(t->size());
    for (size_t at = 0; at < t->size();) {
      const auto n = size_t(code_point_at(t->bytes(), at).bytes);
      out.emplace_back(t->substr(at, n));
      at += n;
    }
    return out;
  }
  refuse(fmt::format("a {} cannot be walked", type_name(v)));
}

bool contains(Runtime& rt, const Value& container, const Value& what) {
  if (container.is_undefined()) return false;
  rt.spend(1 + (container.text() || container.list() ? container.weight() / 16 : 0));
  if (const Text* t = container.text()) {
    if (!what.text()) refuse(fmt::format("a {} cannot be in a str", type_name(what)));
    return t->bytes().find(what.text()->bytes()) != std::string::npos;
  }
  if (const Dict* d = container.dict()) return d->find(what);
  if (const Sequence* l = container.list()) return std::any_of(l->items.begin(), l->items.end(), [&](const Value& v) { return equal(v, what); });
  refuse(fmt::format("nothing can be in a {}", type_name(container)));
}

int64_t length_of(const Value& v) {
  if (v.is_undefined()) return 0;
  if (const Text* t = v.text()) return int64_t(length(*t));
  if (const Sequence* l = v.list()) return int64_t(l->items.size());
  if (const Dict* d = v.dict()) return int64_t(d->entries().size());
  refuse(fmt::format("a {} has no length", type_name(v)));
}

Text percent_format(Runtime& rt, const Text& format, const List& values) {
  Text out;
  size_t next = 0;
  const std::string& s = format.bytes();
  for (size_t at = 0; at < s.size(); ++at) {
    if (s[at] != '%') {
      out += format.substr(at, 1);
      continue;
    }
    size_t end = at + 1;
    while (end < s.size() && std::string_view("0123456789.-+ #").find(s[end]) != std::string_view::npos) ++end;
    const char kind = end < s.size() ? s[end] : '\0';
    const std::string spec = s.substr(at + 1, end - at - 1);
    at = end;
    if (kind == '%') {
      out += "%";
      continue;
    }
    if (next >= values.size()) refuse("a format has more places than values");
    const Value& v = values[next++];
    if (std::string_view("sridfxX").find(kind) == std::string_view::npos || spec.size() > 8) refuse(fmt::format("the format %{}{} is not known", spec, kind));
    const bool as_text = kind == 's' || kind == 'r';
    if (as_text && spec.empty()) {
      rt.room_for(out.size() + v.weight());
      out += kind == 's' ? to_text(v) : to_repr(v);
      continue;
    }
    if (as_text || !v.is_number()) refuse(fmt::format("the format %{}{} is not for a {}", spec, kind, type_name(v)));
    int64_t room = 0;
    const int64_t* i = v.integer(room);
    if (kind != 'f' && !i && !(std::fabs(v.number()) < 9.2e18)) refuse(fmt::format("the format %{}{} is not for {}", spec, kind, to_text(v).bytes()));
    char text[512];
    const std::string pattern = "%" + spec + (kind == 'f' ? "f" : kind == 'x' || kind == 'X' ? std::string("ll") + kind : "lld");
    const double width = std::atof(spec.c_str() + spec.find_first_not_of("-+ #0.") * (spec.find_first_not_of("-+ #0.") != spec.npos));
    if (std::fabs(width) > 100) refuse("a format is wider than 100");
    const int n = kind == 'f' ? std::snprintf(text, sizeof text, pattern.c_str(), v.number())
                              : std::snprintf(text, sizeof text, pattern.c_str(), static_cast<long long>(i ? *i : int64_t(v.number())));
    out += Text(std::string(text, size_t(std::clamp(n, 0, int(sizeof text) - 1))));
  }
  if (next < values.size()) refuse("a format has fewer places than values");
  return out;
}

}  // namespace thimble::data::jinja
