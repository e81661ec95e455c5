// Text up to the next {{, {% or {#, then what is inside it. "-" at either side eats white space, "+" keeps what trim_blocks
// (the newline behind a block) and lstrip_blocks (the blanks of a line before a block) would take.
#include "data/jinja_lexer.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "data/utf8.h"

namespace thimble::data::jinja {
namespace {

constexpr std::array<std::string_view, 27> symbols{"**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "<", ">",
                                                   "=",  ".",  ":",  "|",  ",",  ";",  "(", ")", "[", "]", "{", "}", "!"};

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool begins_name(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c & 0x80); }

// Every end of line is \n, and a last one is dropped.
std::string normalized(std::string_view source) {
  std::string s;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    s += source[i] == '\r' ? '\n' : source[i];
  }
  if (s.ends_with('\n')) s.pop_back();
  return s;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)), s_(source_) {}

  std::vector<Token> run() {
    while (at_ < s_.size()) text();
    add(Token::end, "");
    return std::move(tokens_);
  }

 private:
  void add(Token::Kind kind, std::string value) { tokens_.push_back({kind, std::move(value), line_}); }
  bool has(std::string_view what, size_t at) const { return s_.substr(at, what.size()) == what; }
  char peek(size_t ahead = 0) const { return at_ + ahead < s_.size() ? s_[at_ + ahead] : '\0'; }
  void move_to(size_t at) {
    line_ += int(std::count(s_.begin() + std::ptrdiff_t(at_), s_.begin() + std::ptrdiff_t(at), '\n'));
    at_ = at;
  }
  void skip_blanks() {
    size_t at = at_;
    while (at < s_.size() && is_blank(s_[at])) ++at;
    move_to(at);
  }

  size_t next_tag() const {
    for (size_t at = s_.find('{', at_); at != s_.npos; at = s_.find('{', at + 1))
      if (at + 1 < s_.size() && (s_[at + 1] == '{' || s_[at + 1] == '%' || s_[at + 1] == '#')) return at;
    return s_.size();
  }

  // Text up to the next tag, and the tag.
  void text() {
    const size_t tag = next_tag();
    add_text(s_.substr(at_, tag - at_), tag);
    move_to(tag);
    if (tag == s_.size()) return;
    const char kind = s_[tag + 1];
    move_to(tag + 2);
    if (peek() == '-' || peek() == '+') move_to(at_ + 1);
    if (kind == '#') return comment();
    if (kind == '%' && raw()) return;
    add(kind == '%' ? Token::block_begin : Token::output_begin, "");
    inside(kind == '%' ? "%}" : "}}", kind == '%' ? Token::block_end : Token::output_end);
  }

  // What stands before the tag at `tag` (or the end), less the white space that the tag's sign takes.
  void add_text(std::string_view piece, size_t tag) {
    const char kind = tag < s_.size() ? s_[tag + 1] : '\0', sign = tag + 2 < s_.size() ? s_[tag + 2] : '\0';
    if (kind && sign == '-') {
      while (!piece.empty() && is_blank(piece.back())) piece.remove_suffix(1);
    } else if (kind && kind != '{' && sign != '+') {
      const size_t line = piece.rfind('\n') + 1;  // 0 where there is none
      if ((line > 0 || after_newline_) && std::all_of(piece.begin() + std::ptrdiff_t(line), piece.end(), is_blank)) piece = piece.substr(0, line);
    }
    if (!piece.empty()) add(Token::text, std::string(piece));
  }

  // Behind the end of a block or comment whose last characters were `sign`.
  void trim_after(char sign, bool is_block) {
    if (sign == '-') skip_blanks();
    else if (is_block && sign != '+' && peek() == '\n') move_to(at_ + 1);
    after_newline_ = at_ > 0 && s_[at_ - 1] == '\n';
  }

  void comment() {
    const int line = line_;
    const size_t end = s_.find("#}", at_);
    if (end == s_.npos) refuse_at(line, "the end of a comment: #}", "the end of the template");
    const char sign = s_[end - 1] == '{' ? '\0' : s_[end - 1];
    move_to(end + 2);
    trim_after(sign, true);
  }

  // {% raw %} ... {% endraw %}
  bool raw() {
    size_t at = at_;
    while (at < s_.size() && is_blank(s_[at])) ++at;
    if (!has("raw", at)) return false;
    for (at += 3; at < s_.size() && is_blank(s_[at]);) ++at;
    const bool eats = has("-%}", at);
    if (!eats && !has("%}", at)) return false;
    const int line = line_;
    move_to(at + (eats ? 3 : 2));
    if (eats) skip_blanks();
    for (size_t tag = s_.find("{%", at_); tag != s_.npos; tag = s_.find("{%", tag + 1)) {
      size_t end = tag + 2;
      if (has("-", end) || has("+", end)) ++end;
      while (end < s_.size() && is_blank(s_[end])) ++end;
      if (!has("endraw", end)) continue;
      for (end += 6; end < s_.size() && is_blank(s_[end]);) ++end;
      const char sign = end < s_.size() && (s_[end] == '-' || s_[end] == '+') ? s_[end++] : '\0';
      if (!has("%}", end)) continue;
      after_newline_ = false;
      add_text(s_.substr(at_, tag - at_), tag);
      move_to(end + 2);
      trim_after(sign, true);
      return true;
    }
    refuse_at(line, "{% endraw %}", "the end of the template");
  }

  void inside(std::string_view close, Token::Kind closing) {
    const int opened = line_;
    std::string open;  // brackets
    for (;;) {
      skip_blanks();
      if (at_ >= s_.size()) refuse_at(opened, std::string(close), "the end of the template");
      if (open.empty()) {
        const char sign = (peek() == '-' || (peek() == '+' && closing == Token::block_end)) && has(close, at_ + 1) ? peek() : '\0';
        if (sign || has(close, at_)) {
          add(closing, "");
          move_to(at_ + 2 + (sign ? 1 : 0));
          return trim_after(sign, closing == Token::block_end);
        }
      }
      if (begins_name(peek())) word();
      else if (is_digit(peek())) number();
      else if (peek() == '"' || peek() == '\'') quoted();
      else symbol(open);
    }
  }

  void word() {
    const size_t begin = at_;
    while (begins_name(peek()) || is_digit(peek())) ++at_;
    add(Token::name, std::string(s_.substr(begin, at_ - begin)));
  }

  void number() {
    const size_t begin = at_;
    bool is_real = false;
    const auto digits = [&] { while (is_digit(peek()) || (peek() == '_' && is_digit(peek(1)))) ++at_; };
    if (peek() == '0' && (peek(1) | 0x20) >= 'b' && std::string_view("xob").find(char(peek(1) | 0x20)) != std::string_view::npos) {
      for (at_ += 2; (begins_name(peek()) && !(peek() & 0x80)) || is_digit(peek());) ++at_;
    } else {
      digits();
      if (peek() == '.' && is_digit(peek(1))) is_real = true, ++at_, digits();
      if ((peek() | 0x20) == 'e' && (is_digit(peek(1)) || ((peek(1) == '+' || peek(1) == '-') && is_digit(peek(2))))) is_real = true, at_ += 2, digits();
    }
    std::string value(s_.substr(begin, at_ - begin));
    std::erase(value, '_');
    add(is_real ? Token::real : Token::integer, value);
  }

  // Escapes are Python's.
  void quoted() {
    const char quote = s_[at_];
    const int line = line_;
    std::string value;
    size_t at = at_ + 1;
    const auto digits = [&](size_t most, int base) {
      uint32_t v = 0;
      for (size_t n = 0; n < most && at < s_.size(); ++n, ++at) {
        const char c = char(s_[at] | 0x20);
        const int d = is_digit(s_[at]) ? s_[at] - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
        if (d >= base) {
          if (base == 16) refuse_at(line, fmt::format("{} hexadecimal digits after a backslash", most), "another character");
          break;
        }
        v = v * uint32_t(base) + uint32_t(d);
      }
      if (v > 0x10ffff || (v >= 0xd800 && v < 0xe000)) refuse_at(line, "the number of a character", fmt::format("{:x}", v));
      append_utf8(value, char32_t(v));
    };
    while (at < s_.size() && s_[at] != quote) {
      if (s_[at] != '\\' || at + 1 >= s_.size()) {
        value += s_[at++];
        continue;
      }
      const char c = s_[at + 1];
      static constexpr std::string_view simple = "abfnrtv\\'\"", means = "\a\b\f\n\r\t\v\\'\"";
      if (const size_t which = simple.find(c); which != simple.npos) value += means[which], at += 2;
      else if (c == '\n') at += 2;
      else if (c == 'x') at += 2, digits(2, 16);
      else if (c == 'u') at += 2, digits(4, 16);
      else if (c == 'U') at += 2, digits(8, 16);
      else if (c >= '0' && c <= '7') ++at, digits(3, 8);
      else value += '\\', ++at;
    }
    if (at >= s_.size()) refuse_at(line, std::string("the end of a string: ") + quote, "the end of the template");
    add(Token::string, std::move(value));
    move_to(at + 1);
  }

  void symbol(std::string& open) {
    const auto it = std::find_if(symbols.begin(), symbols.end(), [&](auto w) { return has(w, at_); });
    if (it == symbols.end() || *it == "!") refuse_at(line_, "an expression", fmt::format("'{}'", to_utf8(code_point_at(s_, at_).value)));
    const char c = (*it)[0];
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) refuse_at(line_, open.empty() ? "an expression" : fmt::format("'{}'", open.back()), fmt::format("'{}'", c));
      open.pop_back();
    }
    add(Token::symbol, std::string(*it));
    move_to(at_ + it->size());
  }

  const std::string source_;
  const std::string_view s_;
  size_t at_ = 0;
  int line_ = 1;
  bool after_newline_ = true;  // what comes begins a line
  std::vector<Token> tokens_;
};

}  // namespace

void refuse_at(int line, std::string expected, std::string found) {
  throw Error(Fault::bad_input, {.what = "the chat template cannot be read", .where = fmt::format("chat template, line {}", line),
                                 .expected = std::move(expected), .found = std::move(found)});
}

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace thimble::data::jinja
