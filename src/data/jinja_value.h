// What a template computes with: Python's values as Jinja2 sees them. Values are immutable and cheap to copy; only a namespace can be
// written to, and it may hold neither namespaces nor functions, so there are no cycles.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"
#include "data/jinja_text.h"

namespace thimble::data::jinja {

class Value;
class Runtime;
using List = std::vector<Value>;

struct Undefined { std::string name; };  // what was sought, for messages
struct None {};
struct Sequence;
class Dict;
struct Namespace;
struct Function;

class Value {
 public:
  Value() : data_(None{}) {}
  Value(Undefined u) : data_(std::move(u)) {}
  Value(bool b) : data_(b) {}
  Value(int64_t i) : data_(i) {}
  Value(double d) : data_(d) {}
  Value(Text t) : data_(std::make_shared<const Text>(std::move(t))) {}
  Value(const char* t) : Value(Text(t)) {}
  Value(List items, bool tuple = false);
  Value(Dict);
  Value(std::shared_ptr<Namespace> n) : data_(std::move(n)) {}
  Value(Function);
  // Strings within, keys too, are of this origin.
  static Value from_json(const Json&, Origin);

  template <class T> const T* get() const {
    if constexpr (std::is_same_v<T, Text> || std::is_same_v<T, Sequence> || std::is_same_v<T, Dict> || std::is_same_v<T, Function>) {
      const auto* p = std::get_if<std::shared_ptr<const T>>(&data_);
      return p ? p->get() : nullptr;
    } else {
      return std::get_if<T>(&data_);
    }
  }
  const Text* text() const { return get<Text>(); }
  const Sequence* list() const { return get<Sequence>(); }
  const Dict* dict() const { return get<Dict>(); }
  Namespace* space() const {
    const auto* p = std::get_if<std::shared_ptr<Namespace>>(&data_);
    return p ? p->get() : nullptr;
  }
  bool is_undefined() const { return get<Undefined>(); }
  bool is_none() const { return get<None>(); }
  bool is_number() const { return get<bool>() || get<int64_t>() || get<double>(); }
  double number() const;                    // of a number
  const int64_t* integer(int64_t& room) const;  // of an int or a bool, else null

  bool truth() const;
  int depth() const;            // of nesting: 0 for what holds nothing
  size_t weight() const;        // bytes and items within, those that are shared each time: what walking it costs
  bool holds_reference() const; // a namespace or a function, or something that holds one

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>,
               std::shared_ptr<Namespace>, std::shared_ptr<const Function>>
      data_;
};

struct Sequence {
  List items;
  bool tuple = false;
  int depth = 1;
  size_t weight = 1;
  bool holds_reference = false;
};

// Keys in the order in which they came.
class Dict {
 public:
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(const Value& key, Value value);  // throws Error where the key is a list or dict
  int depth() const { return depth_; }
  size_t weight() const { return weight_; }
  bool holds_reference() const { return holds_reference_; }

 private:
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_map<std::string, size_t> index_;
  int depth_ = 1;
  size_t weight_ = 1;
  bool holds_reference_ = false;
};

struct Namespace { Dict values; };

struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;
  // In the order of `names`; an empty pointer where absent. Throws Error on too many or an unknown name. The vector refers to this.
  std::vector<const Value*> bind(std::string_view function, std::initializer_list<std::string_view> names) const;
};

struct Function {
  std::string name;
  std::function<Value(Runtime&, const Arguments&)> call;
};

std::string type_name(const Value&);  // as Python names it
bool equal(const Value&, const Value&);
int compare(const Value&, const Value&);                // -1, 0, 1; throws Error where Python cannot order them
Text to_text(const Value&);                             // str(); undefined is empty
Text to_repr(const Value&);                             // repr()
std::string float_text(double);                         // as Python writes it

struct JsonStyle {
  bool ascii = false, sort_keys = false;
  std::optional<std::string> indent;                    // of one level; none: one line
  std::string between = ", ", colon = ": ";
};
Text to_json(const Value&, const JsonStyle&);           // json.dumps

[[noreturn]] void refuse(std::string what);             // an Error (bad_input) of a template, to which the runtime adds the line

}  // namespace thimble::data::jinja
