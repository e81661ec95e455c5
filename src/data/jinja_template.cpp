// Walks the tree. Scopes are as in Jinja2: a loop's turn, a macro and `with` have their own, an `if` has none; what a loop sets is gone after
// its turn, and only a namespace carries values out. Macros see the scope that they are written in, as it is when they run.
#include "data/jinja_template.h"

#include <algorithm>

#include "data/jinja_syntax.h"
#include "data/utf8.h"

namespace thimble::data::jinja {
namespace {

constexpr size_t longest_source = 128 << 10;  // a model's is 10 KiB or so

struct Loop {
  const List& items;
  size_t index = 0;
  Value changed = {};
  bool has_changed = false;
};

struct Scope {
  Scope* parent = nullptr;
  Loop* loop = nullptr;
  std::vector<std::pair<std::string, Value>> values = {};

  const Value* find(const std::string& name) const {
    for (const Scope* s = this; s; s = s->parent)
      for (const auto& [n, v] : s->values)
        if (n == name) return &v;
    return nullptr;
  }
  Loop* innermost() const {
    for (const Scope* s = this; s; s = s->parent)
      if (s->loop) return s->loop;
    return nullptr;
  }
  void set(const std::string& name, Value v) {
    for (auto& [n, old] : values)
      if (n == name) return void(old = std::move(v));
    values.emplace_back(name, std::move(v));
  }
};

enum class After { next, leave_loop, next_turn };

class Renderer {
 public:
  Renderer(const Limits& limits, const std::tm& now) : rt_(limits, now), limit_(limits.text_bytes) {}

  Rendering run(const Body& body, const Template::Variables& variables) {
    Scope scope;
    for (const auto& [name, v] : variables) scope.set(name, v);
    Scope inner{&scope};
    out_ = &rendering_.text;
    try {
      execute(body, inner);
    } catch (const Error& e) {
      Problem p = e.problem();
      if (p.where.empty()) p.where = fmt::format("chat template, line {}", line_);
      throw Error(e.fault(), std::move(p));
    }
    return std::move(rendering_);
  }

 private:
  // --- statements ---

  After execute(const Body& body, Scope& scope) {
    const Runtime::Deeper deeper(rt_);
    for (const auto& s : body)
      if (const After after = execute(*s, scope); after != After::next) return after;
    return After::next;
  }

  void write(const Text& text) {
    if (out_->size() + text.size() > limit_) refuse(fmt::format("the text grows beyond {} bytes", limit_));
    *out_ += text;
  }

  After execute(const Stmt& s, Scope& scope) {
    line_ = s.line;
    rt_.spend(1);
    switch (s.kind) {
      case Stmt::text: rt_.spend(s.name.size() / 16); write(Text(s.name)); break;
      case Stmt::output: output(*s.value, scope); break;
      case Stmt::branch: return execute(evaluate(*s.condition, scope).truth() ? s.body : s.otherwise, scope);
      case Stmt::loop: return loop(s, scope);
      case Stmt::set: assign(*s.target, evaluate(*s.value, scope), scope); break;
      case Stmt::set_block: set_block(s, scope); break;
      case Stmt::macro: scope.set(s.name, macro(s, scope)); break;
      case Stmt::call_block: write(to_text(call(*s.value, scope, &s))); break;
      case Stmt::filter_block: write(to_text(filtered_block(s, scope))); break;
      case Stmt::with: return with(s, scope);
      case Stmt::generation: return generation(s, scope);
      case Stmt::break_loop: return After::leave_loop;
      case Stmt::next_loop: return After::next_turn;
    }
    return After::next;
  }

  void output(const Expr& e, Scope& scope) {
    const Value v = evaluate(e, scope);
    rt_.spend_on(v);
    if (v.weight() > limit_) refuse(fmt::format("the text grows beyond {} bytes", limit_));
    write(to_text(v));
  }

  After loop(const Stmt& s, Scope& scope) {
    List items = items_of(rt_, evaluate(*s.value, scope));
    if (s.condition) {
      List kept;
      for (Value& v : items) {
        Scope turn{&scope};
        rt_.spend(1);
        assign(*s.target, v, turn);
        if (evaluate(*s.condition, turn).truth()) kept.push_back(std::move(v));
      }
      items = std::move(kept);
    }
    if (items.empty()) return execute(s.otherwise, scope);
    Loop loop{items};
    for (; loop.index < items.size(); ++loop.index) {
      Scope turn{&scope, &loop};
      rt_.spend(1);
      line_ = s.line;
      assign(*s.target, items[loop.index], turn);
      if (execute(s.body, turn) == After::leave_loop) break;
    }
    return After::next;
  }

  After with(const Stmt& s, Scope& scope) {
    Scope inner{&scope};
    for (size_t i = 0; i < s.targets.size(); ++i) assign(*s.targets[i], evaluate(*s.values[i], scope), inner);
    return execute(s.body, inner);
  }

  After generation(const Stmt& s, Scope& scope) {
    const size_t begin = out_->size();
    Scope inner{&scope};
    const After after = execute(s.body, inner);
    if (out_ == &rendering_.text) rendering_.generated.push_back({begin, out_->size()});
    return after;
  }

  // Text that `body` writes.
  Text captured(const Body& body, Scope& scope) {
    Text text;
    Text* const outer = std::exchange(out_, &text);
    try {
      execute(body, scope);
    } catch (...) {
      out_ = outer;
      throw;
    }
    out_ = outer;
    return text;
  }

  void set_block(const Stmt& s, Scope& scope) {
    Scope inner{&scope};
    Value v = captured(s.body, inner);
    if (s.value) v = apply(*s.value, v, scope);
    assign(*s.target, std::move(v), scope);
  }

  Value filtered_block(const Stmt& s, Scope& scope) {
    Scope inner{&scope};
    return apply(*s.value, captured(s.body, inner), scope);
  }

  // A chain of filters whose innermost subject is a block.
  Value apply(const Expr& e, const Value& block, Scope& scope) {
    return rt_.filtered(e.text, e.kids[0] ? apply(*e.kids[0], block, scope) : block, arguments(e, scope));
  }

  void assign(const Expr& target, Value v, Scope& scope) {
    if (target.kind == Expr::name) return scope.set(target.text, std::move(v));
    if (target.kind == Expr::attribute) {
      const Value* owner = scope.find(target.kids[0]->text);
      if (!owner || !owner->space()) refuse(fmt::format("'{}' is no namespace, so nothing in it can be set", target.kids[0]->text));
      if (v.holds_reference()) refuse("a namespace may hold neither namespaces nor macros");
      return owner->space()->values.set(Text(target.text), std::move(v));
    }
    const List parts = items_of(rt_, v);
    if (parts.size() != target.kids.size()) refuse(fmt::format("{} values for {} names", parts.size(), target.kids.size()));
    for (size_t i = 0; i < parts.size(); ++i) assign(*target.kids[i], parts[i], scope);
  }

  Value macro(const Stmt& s, Scope& scope) {
    return Function{s.name, [this, &s, &scope](Runtime&, const Arguments& a) -> Value { return call_macro(s, scope, a); }};
  }

  Value call_macro(const Stmt& s, Scope& scope, const Arguments& a) {
    const Runtime::Deeper deeper(rt_);
    Scope inner{&scope};
    const int line = line_;
    List more(a.positional.begin() + std::ptrdiff_t(std::min(a.positional.size(), s.names.size())), a.positional.end());
    Dict named;
    std::vector<bool> given(s.names.size());
    for (size_t i = 0; i < std::min(a.positional.size(), s.names.size()); ++i) inner.set(s.names[i], a.positional[i]), given[i] = true;
    for (const auto& [name, v] : a.named) {
      const auto it = std::find(s.names.begin(), s.names.end(), name);
      if (it == s.names.end()) {
        if (name == "caller") inner.set(name, v);
        else named.set(Text(name), v);
        continue;
      }
      if (given[size_t(it - s.names.begin())]) refuse(fmt::format("{}() got two values for '{}'", s.name, name));
      given[size_t(it - s.names.begin())] = true;
      inner.set(name, v);
    }
    const size_t without_default = s.names.size() - s.values.size();
    for (size_t i = 0; i < s.names.size(); ++i)
      if (!given[i]) inner.set(s.names[i], i < without_default ? Value(Undefined{s.names[i]}) : evaluate(*s.values[i - without_default], inner));
    inner.set("varargs", {std::move(more), true});
    inner.set("kwargs", std::move(named));
    Text text = captured(s.body, inner);
    line_ = line;
    return text;
  }

  // --- expressions ---

  Value evaluate(const Expr& e, Scope& scope) {
    const Runtime::Deeper deeper(rt_);
    rt_.spend(1);
    const auto kid = [&](size_t i) { return evaluate(*e.kids[i], scope); };
    switch (e.kind) {
      case Expr::constant: return e.value;
      case Expr::name: return look_up(e.text, scope);
      case Expr::list:
      case Expr::tuple: return sequence(e, scope);
      case Expr::dict: return dict(e, scope);
      case Expr::attribute: return attribute_of(e, scope);
      case Expr::item: {
        const Value object = kid(0);
        return item(rt_, object, kid(1));
      }
      case Expr::slice: return slice(e, scope);
      case Expr::call: return call(e, scope, nullptr);
      case Expr::filter: return rt_.filtered(e.text, kid(0), arguments(e, scope));
      case Expr::test: return rt_.tested(e.text, kid(0), arguments(e, scope));
      case Expr::unary: return operate(rt_, e.text, int64_t{0}, kid(0));
      case Expr::binary: {
        const Value a = kid(0);
        return operate(rt_, e.text, a, kid(1));
      }
      case Expr::compare: return compared(e, scope);
      case Expr::both: {
        Value a = kid(0);
        return a.truth() ? kid(1) : std::move(a);
      }
      case Expr::either: {
        Value a = kid(0);
        return a.truth() ? std::move(a) : kid(1);
      }
      case Expr::negation: return !kid(0).truth();
      case Expr::conditional: return kid(1).truth() ? kid(0) : e.kids[2] ? kid(2) : Value(Undefined{"the inline if without else"});
    }
    return {};
  }

  Value look_up(const std::string& name, const Scope& scope) const {
    if (const Value* v = scope.find(name)) return *v;
    if (const Loop* l = name == "loop" ? scope.innermost() : nullptr) return snapshot(*l);
    return global(name);
  }

  // `loop` as a value of its own, as it is now.
  static Value snapshot(const Loop& l) {
    Dict d;
    for (const char* name : {"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0", "previtem", "nextitem"})
      d.set(Text(name), of_loop(l, name));
    return d;
  }
  static Value of_loop(const Loop& l, std::string_view name) {
    const auto n = int64_t(l.items.size()), i = int64_t(l.index);
    if (name == "index") return i + 1;
    if (name == "index0") return i;
    if (name == "revindex") return n - i;
    if (name == "revindex0") return n - i - 1;
    if (name == "first") return i == 0;
    if (name == "last") return i + 1 == n;
    if (name == "length") return n;
    if (name == "depth") return int64_t{1};  // of recursive loops, which there are none of
    if (name == "depth0") return int64_t{0};
    if (name == "previtem" && i > 0) return l.items[size_t(i - 1)];
    if (name == "nextitem" && i + 1 < n) return l.items[size_t(i + 1)];
    return Undefined{"loop." + std::string(name)};
  }

  Value attribute_of(const Expr& e, Scope& scope) {
    const Expr& object = *e.kids[0];
    if (object.kind == Expr::name && object.text == "loop" && !scope.find("loop"))
      if (Loop* l = scope.innermost()) {
        if (e.text == "cycle") return Function{"cycle", [l](Runtime&, const Arguments& a) -> Value {
          if (a.positional.empty()) refuse("loop.cycle() wants values");
          return a.positional[l->index % a.positional.size()];
        }};
        if (e.text == "changed") return Function{"changed", [l](Runtime&, const Arguments& a) -> Value {
          const Value now(List(a.positional), true);
          const bool changed = !l->has_changed || !equal(now, l->changed);
          l->changed = now, l->has_changed = true;
          return changed;
        }};
        return of_loop(*l, e.text);
      }
    return attribute(rt_, evaluate(object, scope), e.text);
  }

  Value sequence(const Expr& e, Scope& scope) {
    List items;
    for (const auto& k : e.kids) items.push_back(evaluate(*k, scope));
    return {std::move(items), e.kind == Expr::tuple};
  }

  Value dict(const Expr& e, Scope& scope) {
    Dict d;
    for (size_t i = 0; i + 1 < e.kids.size(); i += 2) {
      const Value key = evaluate(*e.kids[i], scope);
      d.set(key, evaluate(*e.kids[i + 1], scope));
    }
    return d;
  }

  Value slice(const Expr& e, Scope& scope) {
    const Value object = evaluate(*e.kids[0], scope);
    if (object.is_undefined()) refuse(fmt::format("'{}' is undefined, so it has no items", object.get<Undefined>()->name));
    if (!object.list() && !object.text()) refuse(fmt::format("a {} has no slices", type_name(object)));
    const auto bound = [&](size_t i, std::optional<int64_t> otherwise) -> std::optional<int64_t> {
      const Value v = e.kids[i] ? evaluate(*e.kids[i], scope) : Value();
      int64_t room = 0;
      if (v.is_none()) return otherwise;
      const int64_t* at = v.integer(room);
      if (!at) refuse(fmt::format("a slice wants ints, not a {}", type_name(v)));
      return *at;
    };
    const int64_t step = *bound(3, 1), n = length_of(object);
    if (step == 0) refuse("a slice wants a step that is not 0");
    const auto within = [&](std::optional<int64_t> at, int64_t otherwise) {
      if (!at) return otherwise;
      return std::clamp<int64_t>(*at < 0 ? *at + n : *at, step < 0 ? -1 : 0, step < 0 ? n - 1 : n);
    };
    const int64_t begin = within(bound(1, std::nullopt), step < 0 ? n - 1 : 0), end = within(bound(2, std::nullopt), step < 0 ? -1 : n);
    if (object.text() && step == 1) {
      rt_.spend_on(object);
      const size_t from = byte_of(*object.text(), size_t(begin)), to = byte_of(*object.text(), size_t(std::max(begin, end)));
      return object.text()->substr(from, to - from);
    }
    const List items = items_of(rt_, object);
    List out;
    for (int64_t i = begin; step > 0 ? i < end : i > end;) {
      out.push_back(items[size_t(i)]);
      if (step > 0 ? step >= end - i : step <= end - i) break;
      i += step;
    }
    if (object.list()) return {std::move(out), object.list()->tuple};
    Text text;
    for (const Value& v : out) text += *v.text();
    return text;
  }

  Arguments arguments(const Expr& e, Scope& scope) {
    Arguments a;
    for (size_t i = 1; i < e.kids.size(); ++i) a.positional.push_back(evaluate(*e.kids[i], scope));
    for (const auto& [name, value] : e.named) a.named.emplace_back(name, evaluate(*value, scope));
    return a;
  }

  // caller: the block of {% call %}, or null.
  Value call(const Expr& e, Scope& scope, const Stmt* caller) {
    const Value callee = evaluate(*e.kids[0], scope);
    Arguments a = arguments(e, scope);
    if (caller) a.named.emplace_back("caller", macro(*caller, scope));
    return rt_.called(callee, a);
  }

  Value compared(const Expr& e, Scope& scope) {
    Value a = evaluate(*e.kids[0], scope);
    for (size_t i = 0; i < e.operators.size(); ++i) {
      Value b = evaluate(*e.kids[i + 1], scope);
      if (!holds(e.operators[i], a, b)) return false;
      a = std::move(b);
    }
    return true;
  }
  bool holds(const std::string& op, const Value& a, const Value& b) {
    if (op == "in") return contains(rt_, b, a);
    if (op == "not in") return !contains(rt_, b, a);
    rt_.spend(1 + std::min(a.weight(), b.weight()) / 16);
    if (op == "==") return equal(a, b);
    if (op == "!=") return !equal(a, b);
    for (const Value* v : {&a, &b})
      if (v->is_undefined()) refuse(fmt::format("'{}' is undefined", v->get<Undefined>()->name));
    const int c = compare(a, b);
    return op == "<" ? c < 0 : op == "<=" ? c <= 0 : op == ">" ? c > 0 : c >= 0;
  }

  Runtime rt_;
  const size_t limit_;
  Rendering rendering_;
  Text* out_ = nullptr;
  int line_ = 1;
};

bool has_generation(const Body& body) {
  return std::any_of(body.begin(), body.end(),
                     [](const auto& s) { return s->kind == Stmt::generation || has_generation(s->body) || has_generation(s->otherwise); });
}

}  // namespace

Value Runtime::filtered(std::string_view name, const Value& subject, const Arguments& a) {
  const Filter filter = find_filter(name);
  if (!filter) refuse(fmt::format("the filter '{}' is not known", name));
  spend(1);
  Value v = filter(*this, subject, a);
  if (v.text()) spend(v.text()->size() / 16);
  return v;
}

bool Runtime::tested(std::string_view name, const Value& subject, const Arguments& a) {
  if (name == "filter" || name == "test") return subject.text() && (name == "test" ? bool(find_test(subject.text()->bytes())) : bool(find_filter(subject.text()->bytes())));
  const Test test = find_test(name);
  if (!test) refuse(fmt::format("the test '{}' is not known", name));
  return test(*this, subject, a);
}

Value Runtime::called(const Value& function, const Arguments& a) {
  if (function.is_undefined()) refuse(fmt::format("'{}' is undefined, so it cannot be called", function.get<Undefined>()->name));
  const Function* f = function.get<Function>();
  if (!f) refuse(fmt::format("a {} cannot be called", type_name(function)));
  spend(1);
  Value v = f->call(*this, a);
  if (v.text()) spend(v.text()->size() / 16);
  return v;
}

Template::Template(std::string_view source) {
  if (source.size() > longest_source)
    throw Error(Fault::bad_input, {.what = "a chat template is too long", .where = "chat template", .expected = "at most 128 KiB", .found = fmt::format("{} bytes", source.size())});
  if (const size_t bad = first_invalid_utf8(source); bad != source.npos)
    throw Error(Fault::bad_input, {.what = "a chat template is not valid UTF-8", .where = fmt::format("chat template, byte {}", bad), .expected = "UTF-8"});
  body_ = parse(source);
  marks_generation_ = has_generation(body_);
}
Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

Rendering Template::render(const Variables& variables, const Limits& limits, const std::tm& now) const { return Renderer(limits, now).run(body_, variables); }

}  // namespace thimble::data::jinja
