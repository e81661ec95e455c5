// PCRE2 with UTF, Unicode classes and JIT. Where Oniguruma's classes differ from PCRE2's, the expression is rewritten first.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/pattern.h"

#include <pcre2.h>

namespace thimble::data {
namespace {

constexpr size_t longest_expression = 64 << 10;
constexpr uint32_t match_steps = 50'000'000;   // of one match; 10 MB of blanks take far fewer
constexpr uint32_t match_heap_kib = 64 << 10;  // without JIT
constexpr size_t jit_stack_bytes = 8 << 20;

// White_Space and the word class of Oniguruma, with its six Latin-1 numbers; PCRE2's \s has U+180E too, its \w all numbers and no marks.
constexpr std::string_view space = R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view word = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

[[noreturn]] void refuse(std::string what, std::string_view where, std::string_view expression, std::string found) {
  throw Error(Fault::bad_input, {.what = std::move(what),
                                 .where = std::string(where),
                                 .expected = "a regular expression that PCRE2 accepts",
                                 .found = std::move(found) + " in " + std::string(expression.substr(0, 200)),
                                 .fix = "use the tokenizer.json that the model's authors published"});
}

std::string from_oniguruma(std::string_view in, std::string_view where) {
  std::string out;
  int in_class = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const char c = in[i];
    if (c == '\\' && i + 1 < in.size()) {
      const char e = in[++i];
      const bool negated = e == 'S' || e == 'W';
      if (e != 's' && e != 'S' && e != 'w' && e != 'W') {
        out += {c, e};
      } else if (in_class && negated) {
        refuse("a negated class inside a class is not supported", where, in, std::string{'\\', e});
      } else {
        const std::string_view members = e == 's' || e == 'S' ? space : word;
        out.append(in_class ? "" : negated ? "[^" : "[").append(members).append(in_class ? "" : "]");
      }
      continue;
    }
    if (in_class && c == '&' && in.substr(i, 2) == "&&") refuse("an intersection of classes is not supported", where, in, "&&");
    if (in_class && c == '[' && in.substr(i, 2) != "[:") refuse("a class inside a class is not supported", where, in, "[");
    if (c == '[' && !in_class) {
      in_class = 1;
      out += c;
      if (in.substr(i + 1, 1) == "^") out += in[++i];
      if (in.substr(i + 1, 1) == "]") out += "\\]", ++i;  // a bracket that comes first is a member
      continue;
    }
    if (c == '[' && in_class) {  // [:alpha:]
      const size_t end = in.find(":]", i);
      if (end == in.npos) refuse("a class is not closed", where, in, "[:");
      out += in.substr(i, end + 2 - i);
      i = end + 1;
      continue;
    }
    if (c == ']' && in_class) in_class = 0;
    out += c;
  }
  return out;
}

std::string message_of(int code) {
  unsigned char text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

template <auto free_it>
struct Free {
  template <class T>
  void operator()(T* p) const {
    free_it(p);
  }
};
template <class T, auto free_it>
using Owned = std::unique_ptr<T, Free<free_it>>;

}  // namespace

struct Pattern::Code {
  Owned<pcre2_code, pcre2_code_free> compiled;
  Owned<pcre2_match_context, pcre2_match_context_free> limits;  // only read while matching, so threads share it
  std::string expression, where;

  int match(std::string_view text, size_t at, pcre2_match_data* found) const {
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    // The text was checked once by the caller; checking it again at each match would be quadratic.
    const int rc = pcre2_match(compiled.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, found, limits.get());
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
    const Owned<pcre2_match_context, pcre2_match_context_free> roomy(pcre2_match_context_copy(limits.get()));
    const Owned<pcre2_jit_stack, pcre2_jit_stack_free> stack(pcre2_jit_stack_create(64 << 10, jit_stack_bytes, nullptr));
    pcre2_jit_stack_assign(roomy.get(), nullptr, stack.get());
    return pcre2_match(compiled.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK, found, roomy.get());
  }
};

Pattern Pattern::literal(std::string text) {
  Pattern p;
  p.literal_ = std::move(text);
  return p;
}

Pattern Pattern::regex(std::string_view expression, std::string_view where) {
  if (expression.size() > longest_expression)
    refuse("a regular expression is too long", where, expression, fmt::format("{} bytes", expression.size()));
  const std::string rewritten = from_oniguruma(expression, where);
  const Owned<pcre2_compile_context, pcre2_compile_context_free> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 100);
  int error = 0;
  PCRE2_SIZE offset = 0;
  const uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;  // Oniguruma's ^ and $ are those of lines
  auto code = std::make_shared<Code>();
  code->compiled.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten.data()), rewritten.size(), flags, &error, &offset, context.get()));
  if (!code->compiled)
    refuse("a regular expression cannot be compiled", where, expression, fmt::format("{} at {}", message_of(error), offset));
  pcre2_jit_compile(code->compiled.get(), PCRE2_JIT_COMPLETE);  // where JIT is absent, matching interprets: the same result
  code->limits.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(code->limits.get(), match_steps);
  pcre2_set_heap_limit(code->limits.get(), match_heap_kib);
  code->expression = expression;
  code->where = where;
  Pattern p;
  p.code_ = std::move(code);
  return p;
}

Pattern Pattern::read(const Json& spec, std::string_view where) {
  if (spec.is_object() && spec.contains("String")) return literal(require<std::string>(spec, "String", where));
  if (spec.is_object() && spec.contains("Regex")) return regex(require<std::string>(spec, "Regex", where), where);
  fail_field(where, "pattern", "{\"String\": ...} or {\"Regex\": ...}", &spec);
}

std::vector<Span> Pattern::find_all(std::string_view text) const {
  std::vector<Span> found;
  find_all(text, found);
  return found;
}

void Pattern::find_all(std::string_view text, std::vector<Span>& found) const {
  found.clear();
  if (!code_) {
    if (literal_.empty()) return;
    for (size_t at = text.find(literal_); at != text.npos; at = text.find(literal_, at + literal_.size()))
      found.push_back({at, at + literal_.size()});
    return;
  }
  const Owned<pcre2_match_data, pcre2_match_data_free> match(pcre2_match_data_create_from_pattern(code_->compiled.get(), nullptr));
  size_t at = 0, last_end = text.npos;
  while (at <= text.size()) {
    const int rc = code_->match(text, at, match.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) refuse("a regular expression took too many steps on a text", code_->where, code_->expression, message_of(rc));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
    if (span[1] > span[0] || span[0] != last_end) found.push_back({span[0], span[1]});  // no empty match where the last one ended
    if (span[1] > span[0]) {
      at = last_end = span[1];
    } else {
      last_end = span[1];
      at = span[1] + 1;
      while (at < text.size() && (text[at] & 0xc0) == 0x80) ++at;
    }
  }
}

std::string Pattern::replace_all(std::string_view text, std::string_view with) const {
  std::string out;
  size_t done = 0;
  for (const Span s : find_all(text)) {
    out.append(text.substr(done, s.begin - done)).append(with);
    done = s.end;
  }
  return out.append(text.substr(done));
}

}  // namespace thimble::data
