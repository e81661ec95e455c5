// One rendering: its limits, and the calls that filters, tests and methods need of each other.
#pragma once
#include <ctime>
#include <functional>

#include "data/jinja_value.h"

namespace thimble::data::jinja {

struct Limits {
  int64_t steps = 10'000'000;          // expressions evaluated, items walked, 16 bytes of text each
  size_t text_bytes = size_t{4} << 20; // of any one text, the output too
  int depth = 1000;                    // expressions, blocks and macros within each other
};

class Runtime {
 public:
  Runtime(const Limits& limits, const std::tm& now) : limits_(limits), steps_(limits.steps), now_(now) {}

  void spend(size_t steps) {
    if ((steps_ -= int64_t(std::min(steps, size_t(limits_.steps) + 1))) < 0) refuse(fmt::format("it takes more than {} steps", limits_.steps));
  }
  void spend_on(const Value& v) { spend(1 + v.weight() / 16); }
  // Before a text of so many bytes is made.
  void room_for(size_t bytes) {
    if (bytes > limits_.text_bytes) refuse(fmt::format("a text grows beyond {} bytes", limits_.text_bytes));
    spend(bytes / 16);
  }
  const std::tm& now() const { return now_; }

  Value filtered(std::string_view name, const Value& subject, const Arguments&);  // throws Error on an unknown name
  bool tested(std::string_view name, const Value& subject, const Arguments&);
  Value called(const Value& function, const Arguments&);

  struct Deeper {
    explicit Deeper(Runtime& r) : runtime(r) {
      if (++r.depth_ > r.limits_.depth) refuse(fmt::format("it nests deeper than {}", r.limits_.depth));
    }
    ~Deeper() { --runtime.depth_; }
    Runtime& runtime;
  };

 private:
  const Limits limits_;
  int64_t steps_;
  int depth_ = 0;
  std::tm now_;
};

// Rows of three tables, each in a file of its own; null where there is no such name.
using Filter = Value (*)(Runtime&, const Value& subject, const Arguments&);
using Test = bool (*)(Runtime&, const Value& subject, const Arguments&);
using Method = Value (*)(Runtime&, const Value& self, const Arguments&);
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);
Method find_method(const Value& self, std::string_view name);  // of Python's str, dict and list
Value global(std::string_view name);                           // range, dict, namespace, raise_exception, strftime_now; or undefined

// x.name and x[key] as Jinja2 resolves them: undefined where there is nothing, an Error where x itself is undefined.
Value attribute(Runtime&, const Value& object, const std::string& name);
Value item(Runtime&, const Value& object, const Value& key);
// What a loop or filter walks: items, keys, characters; an Error where a value cannot be walked.
List items_of(Runtime&, const Value&);
bool contains(Runtime&, const Value& container, const Value& what);
int64_t length_of(const Value&);
Value operate(Runtime&, std::string_view op, const Value& a, const Value& b);  // + - * / // % ** ~
Text percent_format(Runtime&, const Text& format, const List& values);          // "%s %d" % values

}  // namespace thimble::data::jinja
