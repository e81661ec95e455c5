// What may stand behind `is`.
#include <algorithm>
#include <array>
#include <cmath>

#include "data/jinja_runtime.h"

namespace thimble::data::jinja {
namespace {

struct Row {
  std::string_view name;
  Test test;
};

template <bool (*f)(const Value&)>
bool plain(Runtime&, const Value& v, const Arguments& a) {
  a.bind("a test", {});
  return f(v);
}
template <bool (*f)(int)>
bool order(Runtime& rt, const Value& v, const Arguments& a) {
  const Value* other = a.bind("a test", {"other"})[0];
  if (!other) refuse("a comparison lacks what to compare with");
  rt.spend(1 + std::min(v.weight(), other->weight()) / 16);
  return f(compare(v, *other));
}
bool below(int c) { return c < 0; }
bool at_most(int c) { return c <= 0; }
bool above(int c) { return c > 0; }
bool at_least(int c) { return c >= 0; }

bool is_equal(Runtime& rt, const Value& v, const Arguments& a) {
  const Value* other = a.bind("eq", {"other"})[0];
  if (!other) refuse("a comparison lacks what to compare with");
  rt.spend(1 + std::min(v.weight(), other->weight()) / 16);
  return equal(v, *other);
}
bool differs(Runtime& rt, const Value& v, const Arguments& a) { return !is_equal(rt, v, a); }

int64_t whole(const Value& v) {
  int64_t room = 0;
  const int64_t* i = v.integer(room);
  if (!i) refuse(fmt::format("a {} is no whole number", type_name(v)));
  return *i;
}

template <Text (*f)(const Text&)>
bool unchanged(Runtime& rt, const Value& v, const Arguments&) {  // str.islower and str.isupper: and something is a letter
  rt.spend_on(v);
  const Text t = to_text(v);
  return f(t).bytes() == t.bytes() && (lower(t).bytes() != t.bytes() || upper(t).bytes() != t.bytes());
}

constexpr std::array<Row, 37> rows{{
    {"defined", plain<[](const Value& v) { return !v.is_undefined(); }>},
    {"undefined", plain<[](const Value& v) { return v.is_undefined(); }>},
    {"none", plain<[](const Value& v) { return v.is_none(); }>},
    {"boolean", plain<[](const Value& v) { return v.get<bool>() != nullptr; }>},
    {"true", plain<[](const Value& v) { return v.get<bool>() && *v.get<bool>(); }>},
    {"false", plain<[](const Value& v) { return v.get<bool>() && !*v.get<bool>(); }>},
    {"integer", plain<[](const Value& v) { return v.get<int64_t>() != nullptr; }>},
    {"float", plain<[](const Value& v) { return v.get<double>() != nullptr; }>},
    {"number", plain<[](const Value& v) { return v.is_number(); }>},
    {"string", plain<[](const Value& v) { return v.text() != nullptr; }>},
    {"mapping", plain<[](const Value& v) { return v.dict() != nullptr; }>},
    {"iterable", plain<[](const Value& v) { return v.is_undefined() || v.text() || v.list() || v.dict(); }>},
    {"sequence", plain<[](const Value& v) { return v.is_undefined() || v.text() || v.list() || v.dict(); }>},
    {"callable", plain<[](const Value& v) { return v.get<Function>() != nullptr; }>},
    {"escaped", plain<[](const Value&) { return false; }>},
    {"odd", plain<[](const Value& v) { return whole(v) % 2 != 0; }>},
    {"even", plain<[](const Value& v) { return whole(v) % 2 == 0; }>},
    {"divisibleby",
     [](Runtime&, const Value& v, const Arguments& a) {
       const Value* by = a.bind("divisibleby", {"num"})[0];
       if (!by || whole(*by) == 0) refuse("a division by zero");
       return whole(*by) == -1 || whole(v) % whole(*by) == 0;
     }},
    {"eq", is_equal}, {"equalto", is_equal}, {"==", is_equal}, {"ne", differs}, {"!=", differs},
    {"lt", order<below>}, {"lessthan", order<below>}, {"<", order<below>},
    {"le", order<at_most>}, {"<=", order<at_most>},
    {"gt", order<above>}, {"greaterthan", order<above>}, {">", order<above>},
    {"ge", order<at_least>}, {">=", order<at_least>},
    {"in",
     [](Runtime& rt, const Value& v, const Arguments& a) {
       const Value* where = a.bind("in", {"seq"})[0];
       if (!where) refuse("in lacks what to look in");
       return contains(rt, *where, v);
     }},
    {"sameas",
     [](Runtime&, const Value& v, const Arguments& a) {
       const Value* other = a.bind("sameas", {"other"})[0];
       return other && type_name(v) == type_name(*other) && v.weight() < 4096 && equal(v, *other);
     }},
    {"lower", unchanged<lower>},
    {"upper", unchanged<upper>},
}};

}  // namespace

Test find_test(std::string_view name) {
  const auto it = std::find_if(rows.begin(), rows.end(), [&](const Row& r) { return r.name == name; });
  return it == rows.end() ? nullptr : it->test;
}

}  // namespace thimble::data::jinja
