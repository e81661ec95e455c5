// Origins are spelled out byte by byte only where a text mixes them.
#include "data/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "data/utf8.h"

namespace thimble::data::jinja {
namespace {

bool is_continuation(char c) { return (c & 0xc0) == 0x80; }

// str.isspace: White_Space, and the four separators of ASCII.
bool is_blank(char32_t c) { return is_whitespace(c) || (c >= 0x1c && c <= 0x1f); }
bool is_letter(char32_t c) {
  const auto kind = utf8proc_category(utf8proc_int32_t(c));
  return kind == UTF8PROC_CATEGORY_LU || kind == UTF8PROC_CATEGORY_LL || kind == UTF8PROC_CATEGORY_LT;
}
char32_t upper_of(char32_t c) { return char32_t(utf8proc_toupper(utf8proc_int32_t(c))); }
char32_t lower_of(char32_t c) { return char32_t(utf8proc_tolower(utf8proc_int32_t(c))); }

// f(code point) gives the code point in its place.
template <class F>
Text mapped(const Text& text, F&& f) {
  Text out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text.bytes(), at);
    out.append(to_utf8(f(c.value)), text.origin(at));
    at += size_t(c.bytes);
  }
  return out;
}

bool contains(const Text& chars, std::string_view one) {
  for (size_t at = chars.bytes().find(one); at != std::string::npos; at = chars.bytes().find(one, at + 1))
    if (!is_continuation(chars.bytes()[at])) return true;
  return false;
}

}  // namespace

Origin Text::origin_of_all() const {
  if (each_.empty()) return all_;
  const auto found = std::find_if(each_.begin(), each_.end(), [](Origin o) { return o != of_template; });
  return found == each_.end() ? of_template : *found;
}

void Text::spell_out() {
  if (each_.empty()) each_.assign(bytes_.size(), all_);
}

Text Text::substr(size_t begin, size_t count) const {
  Text out(bytes_.substr(std::min(begin, bytes_.size()), count), all_);
  if (!each_.empty()) out.each_ = each_.substr(std::min(begin, bytes_.size()), count);
  return out;
}

Text& Text::operator+=(const Text& more) {
  if (more.empty()) return *this;
  if (more.each_.empty()) return append(more.bytes_, more.all_);
  spell_out();
  each_ += std::u16string(more.each_);  // a copy: more may be this
  bytes_ += std::string(more.bytes_);
  return *this;
}

Text& Text::append(std::string_view bytes, Origin origin) {
  if (bytes.empty()) return *this;
  if (bytes_.empty()) all_ = origin;
  if (!each_.empty() || origin != all_) {
    spell_out();
    each_.append(bytes.size(), origin);
  }
  bytes_ += std::string(bytes);
  return *this;
}

size_t length(const Text& t) {
  return t.size() - size_t(std::count_if(t.bytes().begin(), t.bytes().end(), is_continuation));
}

size_t byte_of(const Text& t, size_t code_point) {
  size_t at = 0;
  for (; code_point > 0 && at < t.size(); --code_point)
    for (++at; at < t.size() && is_continuation(t.bytes()[at]);) ++at;
  return at;
}

Text strip(const Text& text, const Text* chars, bool left, bool right) {
  const std::string& s = text.bytes();
  const auto goes = [&](size_t at, size_t n) {
    return chars ? contains(*chars, std::string_view(s).substr(at, n)) : is_blank(code_point_at(s, at).value);
  };
  size_t begin = 0, end = s.size();
  while (left && begin < end) {
    const auto n = size_t(code_point_at(s, begin).bytes);
    if (!goes(begin, n)) break;
    begin += n;
  }
  while (right && end > begin) {
    size_t at = end - 1;
    while (at > begin && is_continuation(s[at])) --at;
    if (!goes(at, end - at)) break;
    end = at;
  }
  return text.substr(begin, end - begin);
}

Text replace(const Text& text, std::string_view from, const Text& to, int64_t most) {
  Text out;
  const std::string& s = text.bytes();
  size_t done = 0;
  if (from.empty()) {  // Python puts `to` before every character and at the end
    for (; most != 0 && done <= s.size(); --most) {
      out += to;
      if (done == s.size()) return out;
      const auto n = size_t(code_point_at(s, done).bytes);
      out += text.substr(done, n);
      done += n;
    }
    return out += text.substr(done);
  }
  for (size_t at = s.find(from); at != s.npos && most != 0; at = s.find(from, done), --most) {
    out += text.substr(done, at - done);
    out += to;
    done = at + from.size();
  }
  return out += text.substr(done);
}

Text upper(const Text& text) { return mapped(text, upper_of); }
Text lower(const Text& text) { return mapped(text, lower_of); }
Text capitalize(const Text& text) {
  bool first = true;
  return mapped(text, [&](char32_t c) { return std::exchange(first, false) ? upper_of(c) : lower_of(c); });
}
Text title(const Text& text) {
  bool in_word = false;
  return mapped(text, [&](char32_t c) { return std::exchange(in_word, is_letter(c)) ? lower_of(c) : upper_of(c); });
}
Text title_words(const Text& text) {
  bool in_word = false;
  return mapped(text, [&](char32_t c) {
    const bool gap = is_blank(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    return gap ? (in_word = false, c) : std::exchange(in_word, true) ? lower_of(c) : upper_of(c);
  });
}

}  // namespace thimble::data::jinja
