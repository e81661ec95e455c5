// The text is checked before yaml-cpp sees it, and yaml-cpp's events are checked before they become values: aliases are refused
// as they appear, so none can be expanded, and depth is counted on the way down.
#include "base/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <sstream>
#include <vector>

#include "base/decimal.h"

namespace thimble {
namespace {

constexpr size_t max_bytes = size_t{1} << 20;
constexpr size_t max_depth = 32;
constexpr size_t max_keys = 4096;  // of one mapping; a key is looked for among those before it

Error wrong(std::string_view where, int line, std::string what, std::string found = "", std::string fix = "") {
  return Error(Fault::usage, {.what = std::move(what), .where = fmt::format("{}:{}", where, line), .found = std::move(found), .fix = std::move(fix)});
}

// Length of the UTF-8 sequence at the front of `s`, 0 where there is none (overlong, surrogate, truncated, above U+10FFFF).
size_t utf8_length(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned a = byte(0), b = byte(1);
  if (a < 0x80) return 1;
  if (a >= 0xc2 && a < 0xe0) return follows(1) ? 2 : 0;
  if (a >= 0xe0 && a < 0xf0) return follows(1) && follows(2) && !(a == 0xe0 && b < 0xa0) && !(a == 0xed && b >= 0xa0) ? 3 : 0;
  if (a >= 0xf0 && a < 0xf5) return follows(1) && follows(2) && follows(3) && !(a == 0xf0 && b < 0x90) && !(a == 0xf4 && b >= 0x90) ? 4 : 0;
  return 0;
}

void check_text(std::string_view text, std::string_view where) {
  int line = 1;
  bool indenting = true;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (indenting && c == '\t')
      throw wrong(where, line, "a tab in the indentation of YAML", "a tab", "indent with spaces");
    const size_t n = utf8_length(text.substr(i));
    if (n == 0) throw wrong(where, line, "the file is not UTF-8", fmt::format("byte 0x{:02x}", static_cast<unsigned char>(c)), "save it as UTF-8");
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') || c == 0x7f)
      throw wrong(where, line, "a control character in YAML", fmt::format("byte 0x{:02x}", static_cast<unsigned char>(c)), "remove it");
    if (c == '\n') ++line, indenting = true;
    else if (c != ' ') indenting = false;
    i += n;
  }
}

// Whether the quoted scalar that begins at `s` ends: yaml-cpp takes the end of the file for a closing quote.
bool is_closed(std::string_view s) {
  const char quote = s.empty() ? '?' : s[0];
  for (size_t i = 1; i < s.size(); ++i) {
    if (quote == '"' && s[i] == '\\') ++i;
    else if (s[i] == quote && quote == '\'' && i + 1 < s.size() && s[i + 1] == quote) ++i;
    else if (s[i] == quote) return true;
  }
  return quote != '"' && quote != '\'';  // a block scalar needs no end
}

class Builder final : public YAML::EventHandler {
 public:
  Builder(std::string_view text, std::string_view where, Yaml& out) : text_(text), where_(where), out_(out) {}

  void OnDocumentStart(const YAML::Mark& m) override {
    if (documents_++) throw wrong(where_, line_of(m), "more than one YAML document in a file", "", "keep one document a file");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& m, YAML::anchor_t a) override {
    refuse_anchor(m, a);
    place(m, nullptr, "null");
  }
  void OnAlias(const YAML::Mark& m, YAML::anchor_t) override { throw wrong(where_, line_of(m), "YAML aliases (*name) are not accepted", "", "write the value out"); }
  void OnScalar(const YAML::Mark& m, const std::string& tag, YAML::anchor_t a, const std::string& text) override {
    refuse_tag(m, tag);
    refuse_anchor(m, a);
    if (tag == "!" && m.pos >= 0 && size_t(m.pos) < text_.size() && !is_closed(text_.substr(size_t(m.pos))))
      throw wrong(where_, line_of(m), "cannot parse YAML", "a quote that is never closed");
    place(m, tag == "!" ? Json(text) : resolve_scalar(text), text);  // yaml-cpp tags what is quoted with "!"
  }
  void OnSequenceStart(const YAML::Mark& m, const std::string& tag, YAML::anchor_t a, YAML::EmitterStyle::value) override { open(m, tag, a, Json::array()); }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& m, const std::string& tag, YAML::anchor_t a, YAML::EmitterStyle::value) override { open(m, tag, a, Json::object()); }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  struct Open { Json* value; std::string key; bool has_key = false; };

  static int line_of(const YAML::Mark& m) { return m.line + 1; }
  void refuse_anchor(const YAML::Mark& m, YAML::anchor_t a) const {
    if (a) throw wrong(where_, line_of(m), "YAML anchors (&name) are not accepted", "", "write the value out where it is used");
  }
  void refuse_tag(const YAML::Mark& m, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!") throw wrong(where_, line_of(m), "YAML tags are not accepted", tag.substr(0, 80), "write plain data");
  }
  void open(const YAML::Mark& m, const std::string& tag, YAML::anchor_t a, Json empty) {
    refuse_tag(m, tag);
    refuse_anchor(m, a);
    if (open_.size() >= max_depth) throw wrong(where_, line_of(m), fmt::format("YAML nested deeper than {} levels", max_depth));
    Json* placed = place(m, std::move(empty), "");
    open_.push_back({placed, "", false});
  }
  // A value, or the key of one: the parser gives both in turn. Returns where the value lies.
  Json* place(const YAML::Mark& m, Json value, const std::string& text) {
    if (open_.empty()) return &(out_.value = std::move(value));
    Open& at = open_.back();
    if (at.value->is_array()) return &at.value->emplace_back(std::move(value));
    if (!at.has_key) {
      if (value.is_structured() || value.is_null()) throw wrong(where_, line_of(m), "a key in YAML must be a word", value.is_null() ? "nothing" : "a list or mapping");
      if (at.value->size() >= max_keys) throw wrong(where_, line_of(m), fmt::format("more than {} keys in one mapping", max_keys));
      if (at.value->contains(text)) {
        const auto first = open_.size() == 1 ? fmt::format(", first in line {}", out_.lines[text]) : "";
        throw wrong(where_, line_of(m), "a key stands twice in one mapping", text.substr(0, 80) + first, "keep one of the two");
      }
      if (open_.size() == 1) out_.lines[text] = line_of(m);
      at.key = text;
      at.has_key = true;
      return nullptr;
    }
    at.has_key = false;
    return &((*at.value)[at.key] = std::move(value));
  }

  std::string_view text_, where_;
  Yaml& out_;
  std::vector<Open> open_;
  int documents_ = 0;
};

bool all_digits(std::string_view s, std::string_view digits) { return !s.empty() && s.find_first_not_of(digits) == s.npos; }

// [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?
bool is_float(std::string_view s) {
  constexpr std::string_view digits = "0123456789";
  const auto e = s.find_first_of("eE");
  if (e != s.npos) {
    std::string_view power = s.substr(e + 1);
    if (power.starts_with('-') || power.starts_with('+')) power.remove_prefix(1);
    if (!all_digits(power, digits)) return false;
    s = s.substr(0, e);
  }
  const auto point = s.find('.');
  if (point == s.npos) return all_digits(s, digits);
  const auto whole = s.substr(0, point), part = s.substr(point + 1);
  if (whole.empty()) return all_digits(part, digits);
  return all_digits(whole, digits) && (part.empty() || all_digits(part, digits));
}

template <class T>
bool read_integer(std::string_view digits, int base, T& out) {
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out, base);
  return error == std::errc() && end == digits.data() + digits.size();
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t i = 0, n = 0; i < text.size(); i += n)
    if ((n = utf8_length(text.substr(i))) == 0) return false;
  return true;
}

Json resolve_scalar(std::string_view text) {
  const auto is_one_of = [&](std::initializer_list<std::string_view> words) {
    for (const auto w : words)
      if (text == w) return true;
    return false;
  };
  if (is_one_of({"", "~", "null", "Null", "NULL"})) return nullptr;
  if (is_one_of({"true", "True", "TRUE"})) return true;
  if (is_one_of({"false", "False", "FALSE"})) return false;
  if (is_one_of({".nan", ".NaN", ".NAN"})) return std::numeric_limits<double>::quiet_NaN();
  std::string_view body = text;
  const bool negative = body.starts_with('-');
  if (negative || body.starts_with('+')) body.remove_prefix(1);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (body == ".inf" || body == ".Inf" || body == ".INF") return negative ? -infinity : infinity;

  int64_t integer = 0;
  if (all_digits(body, "0123456789") && read_integer(negative ? text : body, 10, integer)) return integer;
  if (text.starts_with("0o") && all_digits(text.substr(2), "01234567") && read_integer(text.substr(2), 8, integer)) return integer;
  if (text.starts_with("0x") && all_digits(text.substr(2), "0123456789abcdefABCDEF") && read_integer(text.substr(2), 16, integer)) return integer;
  if (is_float(body)) {
    const double x = read_decimal(body).value();
    return negative ? -x : x;
  }
  return std::string(text);
}

Yaml parse_yaml(std::string_view text, std::string_view where) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  if (text.size() > max_bytes)
    throw Error(Fault::usage, {.what = "a YAML file is too large", .where = std::string(where), .expected = fmt::format("at most {} bytes", max_bytes),
                               .found = fmt::format("{} bytes", text.size())});
  std::string lines;
  lines.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i)
    if (text[i] != '\r' || !text.substr(i + 1).starts_with('\n')) lines += text[i];
  check_text(lines, where);
  Yaml out;
  Builder builder(lines, where, out);
  std::istringstream in(lines);
  try {
    YAML::Parser parser(in);
    while (parser.HandleNextDocument(builder)) {}
  } catch (const YAML::Exception& e) {
    throw wrong(where, e.mark.line + 1, "cannot parse YAML", e.msg);
  }
  if (out.value.is_null()) out.value = Json::object();
  return out;
}

}  // namespace thimble
