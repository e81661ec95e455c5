// The well-formed byte sequences are those of table 3-7 of the Unicode standard: no overlong forms, no surrogates.
#include "data/utf8.h"

#include <utf8proc.h>

#include <algorithm>

namespace thimble::data {

CodePoint code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(at);
  if (lead < 0x80) return {char32_t(lead), 1, true};
  const int length = lead >= 0xc2 && lead <= 0xdf ? 2 : (lead & 0xf0) == 0xe0 ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
  if (length == 0) return {0xfffd, 1, false};
  char32_t value = lead & (0xffu >> (length + 1));
  for (int i = 1; i < length; ++i) {
    unsigned low = 0x80, high = 0xbf;
    if (i == 1 && lead == 0xe0) low = 0xa0;   // overlong
    if (i == 1 && lead == 0xed) high = 0x9f;  // surrogates
    if (i == 1 && lead == 0xf0) low = 0x90;   // overlong
    if (i == 1 && lead == 0xf4) high = 0x8f;  // above U+10FFFF
    if (at + size_t(i) >= text.size() || byte(at + size_t(i)) < low || byte(at + size_t(i)) > high) return {0xfffd, i, false};
    value = value << 6 | (byte(at + size_t(i)) & 0x3f);
  }
  return {value, length, true};
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += char(c);
  } else if (c < 0x800) {
    out += {char(0xc0 | c >> 6), char(0x80 | (c & 0x3f))};
  } else if (c < 0x10000) {
    out += {char(0xe0 | c >> 12), char(0x80 | (c >> 6 & 0x3f)), char(0x80 | (c & 0x3f))};
  } else {
    out += {char(0xf0 | c >> 18), char(0x80 | (c >> 12 & 0x3f)), char(0x80 | (c >> 6 & 0x3f)), char(0x80 | (c & 0x3f))};
  }
}

std::string to_utf8(char32_t c) {
  std::string s;
  append_utf8(s, c);
  return s;
}

size_t first_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    if (!c.ok) return at;
    at += size_t(c.bytes);
  }
  return text.npos;
}

std::string repair_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    const CodePoint c = code_point_at(bytes, at);
    append_utf8(out, c.value);
    at += size_t(c.bytes);
  }
  return out;
}

bool is_whitespace(char32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_word(char32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  const utf8proc_category_t k = utf8proc_category(utf8proc_int32_t(c));
  const bool letter_or_mark = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ME;  // LU LT LL LM LO MN MC ME
  const bool other_alphabetic = c >= 0x24b6 && c <= 0x24e9;                            // circled letters: symbols, yet Alphabetic
  return letter_or_mark || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_PC || other_alphabetic ||
         c == 0x200c || c == 0x200d;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t k = utf8proc_category(utf8proc_int32_t(c));
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
  const utf8proc_category_t k = utf8proc_category(utf8proc_int32_t(c));
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

}  // namespace thimble::data
