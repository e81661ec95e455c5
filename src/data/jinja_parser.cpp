// Recursive descent in the order of Jinja2's own grammar (jinja2/parser.py), so that precedence is the same. Depth is limited.
#include <algorithm>
#include <charconv>
#include <utility>

#include "base/decimal.h"
#include "data/jinja_lexer.h"
#include "data/jinja_syntax.h"

namespace thimble::data::jinja {
namespace {

constexpr int deepest = 150;   // brackets, blocks
constexpr int highest = 1000;  // levels of an expression: also the operators of a chain, which leans to the left
constexpr int most_links = 200;  // of elif

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)) {}

  Body run() {
    Body body = statements({});
    return body;
  }

 private:
  struct Deeper {
    explicit Deeper(Parser& p) : parser(p) {
      if (++p.depth_ > deepest) refuse_at(p.now().line, fmt::format("nesting of at most {}", deepest), "more");
    }
    ~Deeper() { --parser.depth_; }
    Parser& parser;
  };

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool is(std::string_view symbol) const { return now().kind == Token::symbol && now().value == symbol; }
  bool is_word(std::string_view word) const { return now().kind == Token::name && now().value == word; }
  bool skip(std::string_view symbol) { return is(symbol) && ++at_; }
  bool skip_word(std::string_view word) { return is_word(word) && ++at_; }
  std::string found() const {
    switch (now().kind) {
      case Token::end: return "the end of the template";
      case Token::block_end: return "%}";
      case Token::output_end: return "}}";
      case Token::text: return "text";
      default: return fmt::format("'{}'", now().value.substr(0, 80));
    }
  }
  [[noreturn]] void fail(std::string expected) const { refuse_at(now().line, std::move(expected), found()); }
  void expect(std::string_view symbol) { if (!skip(symbol)) fail(fmt::format("'{}'", symbol)); }
  void expect_word(std::string_view word) { if (!skip_word(word)) fail(fmt::format("'{}'", word)); }
  void expect_kind(Token::Kind kind, std::string_view what) {
    if (now().kind != kind) fail(std::string(what));
    ++at_;
  }
  std::string expect_name() {
    if (now().kind != Token::name) fail("a name");
    return tokens_[at_++].value;
  }
  void end_of_block() { expect_kind(Token::block_end, "%}"); }

  // --- statements ---

  // Until a block that begins with one of `ends`, whose word stays; at the outermost until the end.
  Body statements(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    const int opened = now().line;
    Body body;
    for (;;) {
      const Token& t = now();
      if (t.kind == Token::end) {
        if (ends.size() == 0) return body;
        refuse_at(t.line, fmt::format("{{% {} %}} for the block of line {}", *ends.begin(), opened), found());
      } else if (t.kind == Token::text) {
        body.push_back(std::make_unique<Stmt>(Stmt{Stmt::text, t.line, t.value}));
        ++at_;
      } else if (t.kind == Token::output_begin) {
        ++at_;
        Stmt s{Stmt::output, t.line};
        s.value = tuple();
        expect_kind(Token::output_end, "}}");
        body.push_back(std::make_unique<Stmt>(std::move(s)));
      } else {
        ++at_;
        if (now().kind != Token::name) fail("a statement");
        if (std::find(ends.begin(), ends.end(), now().value) != ends.end()) return body;
        body.push_back(std::make_unique<Stmt>(statement()));
      }
    }
  }
  // The body of a block that is closed by one word.
  Body block(std::string_view end) {
    end_of_block();
    Body body = statements({end});
    expect_word(end);
    end_of_block();
    return body;
  }

  Stmt statement() {
    const int line = now().line;
    const std::string word = expect_name();
    if (word == "if") return branch(line);
    if (word == "for") return loop(line);
    if (word == "set") return set(line);
    if (word == "macro") return macro(line);
    if (word == "call") return call_block(line);
    if (word == "with") return with(line);
    if (word == "filter") {
      Stmt s{Stmt::filter_block, line};
      s.value = filter(nullptr);
      while (skip("|")) s.value = filter(std::move(s.value));
      s.body = block("endfilter");
      return s;
    }
    if (word == "generation") {
      Stmt s{Stmt::generation, line};
      s.body = block("endgeneration");
      return s;
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) refuse_at(line, "a loop around it", fmt::format("'{}'", word));
      end_of_block();
      return {word == "break" ? Stmt::break_loop : Stmt::next_loop, line};
    }
    if (word == "include" || word == "import" || word == "from" || word == "extends" || word == "block")
      refuse_at(line, "a template that stands alone", fmt::format("'{}', which reads other templates", word));
    refuse_at(line, "if, for, set, macro, call, filter, with, raw, generation, break or continue", fmt::format("'{}'", word));
  }

  Stmt branch(int line) {
    Stmt s{Stmt::branch, line};
    s.condition = tuple(false);
    end_of_block();
    s.body = statements({"endif", "else", "elif"});
    Stmt* last = &s;  // an elif is a branch in what is otherwise
    for (int links = 0; skip_word("elif");) {
      if (++links > most_links) refuse_at(now().line, fmt::format("at most {} times elif", most_links), "more");
      auto next = std::make_unique<Stmt>(Stmt{Stmt::branch, now().line});
      next->condition = tuple(false);
      end_of_block();
      next->body = statements({"endif", "else", "elif"});
      last->otherwise.push_back(std::move(next));
      last = last->otherwise.back().get();
    }
    if (skip_word("else")) {
      end_of_block();
      last->otherwise = statements({"endif"});
    }
    expect_word("endif");
    end_of_block();
    return s;
  }

  Stmt loop(int line) {
    Stmt s{Stmt::loop, line};
    s.target = target();
    expect_word("in");
    s.value = tuple(false);
    if (skip_word("if")) s.condition = expression();
    if (is_word("recursive")) fail("a loop that does not call itself");
    end_of_block();
    ++loops_;
    s.body = statements({"endfor", "else"});
    --loops_;
    if (skip_word("else")) {
      end_of_block();
      s.otherwise = statements({"endfor"});
    }
    expect_word("endfor");
    end_of_block();
    return s;
  }

  Stmt set(int line) {
    Stmt s{Stmt::set, line};
    s.target = target(true);
    if (skip("=")) {
      s.value = tuple();
      end_of_block();
      return s;
    }
    s.kind = Stmt::set_block;
    while (skip("|")) s.value = filter(std::move(s.value));
    s.body = block("endset");
    return s;
  }

  void parameters(Stmt& s) {
    expect("(");
    while (!skip(")")) {
      if (!s.names.empty()) expect(",");
      s.names.push_back(expect_name());
      if (skip("=")) s.values.push_back(expression());
      else if (!s.values.empty()) fail("a default, as the parameter before has one");
    }
  }
  Body macro_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = block(end);
    loops_ = loops;
    return body;
  }
  Stmt macro(int line) {
    Stmt s{Stmt::macro, line, expect_name()};
    parameters(s);
    s.body = macro_body("endmacro");
    return s;
  }
  Stmt call_block(int line) {
    Stmt s{Stmt::call_block, line, "caller"};
    if (is("(")) parameters(s);
    s.value = expression();
    if (s.value->kind != Expr::call) refuse_at(line, "the call of a macro", "another expression");
    s.body = macro_body("endcall");
    return s;
  }
  Stmt with(int line) {
    Stmt s{Stmt::with, line};
    while (now().kind != Token::block_end) {
      if (!s.targets.empty()) expect(",");
      s.targets.push_back(target());
      expect("=");
      s.values.push_back(expression());
    }
    s.body = block("endwith");
    return s;
  }

  // What can be assigned to: a name, names in a row, or (`space`) an attribute of a namespace.
  ExprPtr target(bool space = false) {
    const int line = now().line;
    const auto one = [&] {
      const bool bracket = skip("(");
      ExprPtr e = bracket ? target() : node(Expr::name, expect_name());
      if (bracket) expect(")");
      return e;
    };
    ExprPtr first = one();
    if (space && skip(".")) {
      ExprPtr e = node(Expr::attribute, expect_name());
      adopt(*e, std::move(first));
      return e;
    }
    if (!is(",")) return first;
    ExprPtr all = std::make_unique<Expr>(Expr{Expr::tuple, line});
    adopt(*all, std::move(first));
    while (skip(",")) {
      if (is_word("in") || is("=") || now().kind == Token::block_end) break;
      adopt(*all, one());
    }
    return all;
  }

  // --- expressions, from the loosest to the tightest ---

  ExprPtr node(Expr::Kind kind, std::string text = {}) const { return std::make_unique<Expr>(Expr{kind, now().line, std::move(text)}); }
  void adopt(Expr& parent, ExprPtr kid) const {
    if (kid) parent.height = std::max(parent.height, kid->height + 1);
    if (parent.height > highest) refuse_at(now().line, fmt::format("expressions of at most {} levels", highest), "more");
    parent.kids.push_back(std::move(kid));
  }
  ExprPtr joined(Expr::Kind kind, std::string text, ExprPtr a, ExprPtr b) const {
    ExprPtr e = node(kind, std::move(text));
    adopt(*e, std::move(a));
    adopt(*e, std::move(b));
    return e;
  }
  // a, b, c without brackets. conditional: "x if y" may stand in it (not in what a loop walks, whose `if` is the loop's).
  ExprPtr tuple(bool conditional = true) {
    const auto one = [&] { return conditional ? expression() : either(); };
    ExprPtr first = one();
    if (!is(",")) return first;
    ExprPtr all = node(Expr::tuple);
    adopt(*all, std::move(first));
    while (skip(",")) {
      if (now().kind == Token::block_end || now().kind == Token::output_end || is(")") || is_word("if")) break;
      adopt(*all, one());
    }
    return all;
  }

  ExprPtr expression() {
    const Deeper deeper(*this);
    ExprPtr e = either();
    while (skip_word("if")) {
      ExprPtr c = node(Expr::conditional);
      adopt(*c, std::move(e));
      adopt(*c, either());
      adopt(*c, skip_word("else") ? expression() : nullptr);
      e = std::move(c);
    }
    return e;
  }
  ExprPtr either() {
    ExprPtr e = both();
    while (skip_word("or")) e = joined(Expr::either, "or", std::move(e), both());
    return e;
  }
  ExprPtr both() {
    ExprPtr e = negation();
    while (skip_word("and")) e = joined(Expr::both, "and", std::move(e), negation());
    return e;
  }
  ExprPtr negation() {
    if (!skip_word("not")) return comparison();
    const Deeper deeper(*this);
    ExprPtr e = node(Expr::negation);
    adopt(*e, negation());
    return e;
  }
  ExprPtr comparison() {
    ExprPtr e = sum();
    ExprPtr c;
    for (;;) {
      std::string op;
      for (const char* s : {"==", "!=", "<=", ">=", "<", ">"})
        if (is(s)) op = s;
      if (!op.empty()) ++at_;
      else if (skip_word("in")) op = "in";
      else if (is_word("not") && ahead().kind == Token::name && ahead().value == "in") op = "not in", at_ += 2;
      else return c ? std::move(c) : std::move(e);
      if (!c) c = node(Expr::compare), adopt(*c, std::move(e));
      c->operators.push_back(op);
      adopt(*c, sum());
    }
  }
  ExprPtr sum() {
    ExprPtr e = concatenation();
    while (is("+") || is("-")) {
      const std::string op = tokens_[at_++].value;
      e = joined(Expr::binary, op, std::move(e), concatenation());
    }
    return e;
  }
  ExprPtr concatenation() {
    ExprPtr e = product();
    while (skip("~")) e = joined(Expr::binary, "~", std::move(e), product());
    return e;
  }
  ExprPtr product() {
    ExprPtr e = power();
    while (is("*") || is("/") || is("//") || is("%")) {
      const std::string op = tokens_[at_++].value;
      e = joined(Expr::binary, op, std::move(e), power());
    }
    return e;
  }
  ExprPtr power() {
    ExprPtr e = unary();
    while (skip("**")) e = joined(Expr::binary, "**", std::move(e), unary());
    return e;
  }
  ExprPtr unary(bool with_filter = true) {
    const Deeper deeper(*this);
    ExprPtr e;
    if (is("-") || is("+")) {
      const std::string op = tokens_[at_++].value;
      e = node(Expr::unary, op);
      adopt(*e, unary(false));
    } else {
      e = primary();
    }
    e = postfix(std::move(e));
    return with_filter ? filters(std::move(e)) : std::move(e);
  }

  ExprPtr constant(Value v) {
    ExprPtr e = node(Expr::constant);
    e->value = std::move(v);
    ++at_;
    return e;
  }
  ExprPtr primary() {
    const Token& t = now();
    switch (t.kind) {
      case Token::name:
        if (t.value == "true" || t.value == "True") return constant(true);
        if (t.value == "false" || t.value == "False") return constant(false);
        if (t.value == "none" || t.value == "None") return constant({});
        return node(Expr::name, tokens_[at_++].value);
      case Token::string: {
        Text all(t.value);
        while (ahead().kind == Token::string) all += Text(tokens_[++at_].value);
        return constant(std::move(all));
      }
      case Token::integer: return constant(integer(t));
      case Token::real: return constant(read_decimal(t.value).value());
      default: break;
    }
    if (skip("(")) return bracketed();
    if (skip("[")) {
      ExprPtr e = node(Expr::list);
      while (!skip("]")) {
        if (!e->kids.empty()) expect(",");
        if (skip("]")) break;
        adopt(*e, expression());
      }
      return e;
    }
    if (skip("{")) {
      ExprPtr e = node(Expr::dict);
      while (!skip("}")) {
        if (!e->kids.empty()) expect(",");
        if (skip("}")) break;
        adopt(*e, expression());
        expect(":");
        adopt(*e, expression());
      }
      return e;
    }
    fail("an expression");
  }
  ExprPtr bracketed() {
    if (skip(")")) return node(Expr::tuple);
    ExprPtr e = tuple();
    expect(")");
    return e;
  }
  int64_t integer(const Token& t) const {
    const bool based = t.value.size() > 2 && t.value[0] == '0' && t.value[1] > '9';
    const int base = !based ? 10 : (t.value[1] | 0x20) == 'x' ? 16 : (t.value[1] | 0x20) == 'o' ? 8 : 2;
    int64_t v = 0;
    const char *begin = t.value.data() + (based ? 2 : 0), *end = t.value.data() + t.value.size();
    const auto r = std::from_chars(begin, end, v, base);
    if (r.ec != std::errc() || r.ptr != end) refuse_at(t.line, "a number below 2^63", t.value.substr(0, 40));
    return v;
  }

  ExprPtr postfix(ExprPtr e) {
    for (;;) {
      if (skip(".")) {
        const bool digits = now().kind == Token::integer;
        ExprPtr a = digits ? node(Expr::item) : node(Expr::attribute, expect_name());
        adopt(*a, std::move(e));
        if (digits) adopt(*a, primary());
        e = std::move(a);
      } else if (skip("[")) {
        e = subscript(std::move(e));
      } else if (is("(")) {
        e = call(std::move(e));
      } else {
        return e;
      }
    }
  }
  ExprPtr subscript(ExprPtr object) {
    ExprPtr e = node(Expr::item);
    adopt(*e, std::move(object));
    const auto part = [&] { return is(":") || is("]") ? nullptr : expression(); };
    adopt(*e, part());
    for (int parts = 1; parts < 3 && skip(":"); ++parts) {
      e->kind = Expr::slice;
      adopt(*e, part());
    }
    if (e->kind == Expr::item && !e->kids[1]) fail("an index");
    if (e->kind == Expr::slice && e->kids.size() < 4) adopt(*e, nullptr);
    expect("]");
    return e;
  }
  void arguments(Expr& e) {
    expect("(");
    for (bool first = true; !skip(")"); first = false) {
      if (!first) {
        expect(",");
        if (skip(")")) break;
      }
      if (is("*") || is("**")) fail("arguments one by one");
      if (now().kind == Token::name && ahead().kind == Token::symbol && ahead().value == "=") {
        std::string name = expect_name();
        ++at_;
        adopt(e, expression());
        e.named.emplace_back(std::move(name), std::move(e.kids.back()));
        e.kids.pop_back();
      } else {
        if (!e.named.empty()) fail("named arguments last");
        adopt(e, expression());
      }
    }
  }
  ExprPtr call(ExprPtr callee) {
    ExprPtr e = node(Expr::call);
    adopt(*e, std::move(callee));
    arguments(*e);
    return e;
  }
  ExprPtr filters(ExprPtr e) {
    for (;;) {
      if (skip("|")) e = filter(std::move(e));
      else if (skip_word("is")) e = test(std::move(e));
      else if (is("(")) e = call(std::move(e));
      else return e;
    }
  }
  // After "|".
  ExprPtr filter(ExprPtr subject) {
    ExprPtr e = node(Expr::filter, expect_name());
    adopt(*e, std::move(subject));
    if (is("(")) arguments(*e);
    return e;
  }
  // After "is".
  ExprPtr test(ExprPtr subject) {
    const bool negated = skip_word("not");
    ExprPtr e = node(Expr::test, expect_name());
    adopt(*e, std::move(subject));
    const Token& t = now();
    const bool operand = t.kind == Token::string || t.kind == Token::integer || t.kind == Token::real || is("[") || is("{") ||
                         (t.kind == Token::name && t.value != "else" && t.value != "or" && t.value != "and" && t.value != "is" && t.value != "if" && t.value != "in" && t.value != "not");
    if (is("(")) arguments(*e);
    else if (operand) adopt(*e, postfix(primary()));
    if (!negated) return e;
    ExprPtr n = node(Expr::negation);
    adopt(*n, std::move(e));
    return n;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
};

}  // namespace

Body parse(std::string_view source) { return Parser(source).run(); }

}  // namespace thimble::data::jinja
