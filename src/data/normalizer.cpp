// Each step takes text and gives text. Canonical ordering is ours: the library's is an insertion sort, which a million
// combining marks turn quadratic.
#include "data/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "data/base64.h"
#include "data/byte_level.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

int combining_class(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

void order_marks(std::vector<utf8proc_int32_t>& text) {
  for (auto at = text.begin(); at != text.end();) {
    if (combining_class(*at) == 0) {
      ++at;
      continue;
    }
    const auto end = std::find_if(at, text.end(), [](auto c) { return combining_class(c) == 0; });
    std::stable_sort(at, end, [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    at = end;
  }
}

// Rust lowers character by character; one character alone lowers to two.
void append_lower(std::string& out, char32_t c) {
  if (c == 0x130) out += "i\u0307";
  else append_utf8(out, char32_t(utf8proc_tolower(utf8proc_int32_t(c))));
}

std::string run(const normal::Prepend& s, std::string_view text) { return text.empty() ? "" : s.text + std::string(text); }
std::string run(const normal::Replace& s, std::string_view text) { return s.pattern.replace_all(text, s.with); }
std::string run(const normal::Form& s, std::string_view text) { return to_form(text, s.form); }
std::string run(const normal::ByteLevel&, std::string_view text) { return to_byte_level(text); }
std::string run(const normal::Precompiled& s, std::string_view text) { return s.charsmap.apply(text); }
std::string run(const normal::Lowercase&, std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    append_lower(out, c.value);
    at += size_t(c.bytes);
  }
  return out;
}
std::string run(const normal::Strip& s, std::string_view text) {
  while (s.left && !text.empty()) {
    const CodePoint c = code_point_at(text, 0);
    if (!is_whitespace(c.value)) break;
    text.remove_prefix(size_t(c.bytes));
  }
  while (s.right && !text.empty()) {
    size_t at = text.size() - 1;
    while (at > 0 && (text[at] & 0xc0) == 0x80) --at;
    if (!is_whitespace(code_point_at(text, at).value)) break;
    text.remove_suffix(text.size() - at);
  }
  return std::string(text);
}

// In tokenizer.json the table is base64; from a SentencePiece file it comes as its bytes.
normal::Precompiled read_precompiled(const Json& spec, std::string_view where) {
  const auto table = spec.find("precompiled_charsmap");
  if (table != spec.end() && table->is_binary()) {
    const auto& bytes = table->get_binary();
    return {Charsmap(std::string(bytes.begin(), bytes.end()), where)};
  }
  const auto bytes = from_base64(require<std::string>(spec, "precompiled_charsmap", where));
  if (!bytes) fail_field(where, "precompiled_charsmap", "base64", &*table);
  return {Charsmap(*bytes, where)};
}

}  // namespace

std::string to_form(std::string_view text, UnicodeForm form) {
  if (is_ascii(text)) return std::string(text);
  const bool compatible = form == UnicodeForm::nfkc || form == UnicodeForm::nfkd;
  const auto options = utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    utf8proc_int32_t parts[32];  // the longest decomposition, that of U+FDFA, has 18
    const auto n = utf8proc_decompose_char(utf8proc_int32_t(c.value), parts, std::size(parts), options, nullptr);
    check(n >= 0 && size_t(n) <= std::size(parts), "a character has a short decomposition");
    points.insert(points.end(), parts, parts + n);
    at += size_t(c.bytes);
  }
  order_marks(points);
  auto count = utf8proc_ssize_t(points.size());
  if (form == UnicodeForm::nfc || form == UnicodeForm::nfkc)
    count = utf8proc_normalize_utf32(points.data(), count, utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) append_utf8(out, char32_t(points[size_t(i)]));
  return out;
}

Normalizer Normalizer::read(const Json& spec, std::string_view where) {
  Normalizer n;
  if (!spec.is_null()) n.add(spec, where);
  return n;
}

void Normalizer::add(const Json& spec, std::string_view where) {
  if (!spec.is_object()) fail_field(where, "normalizer", "an object", &spec);
  const auto type = require<std::string>(spec, "type", where);
  if (type == "Sequence") {
    const auto list = spec.find("normalizers");
    if (list == spec.end() || !list->is_array()) fail_field(where, "normalizers", "a list", list == spec.end() ? nullptr : &*list);
    for (const Json& s : *list) add(s, where);
  } else if (type == "Prepend") {
    steps_.emplace_back(normal::Prepend{require<std::string>(spec, "prepend", where)});
  } else if (type == "Replace") {
    if (!spec.contains("pattern")) fail_field(where, "pattern", "this key", nullptr);
    steps_.emplace_back(normal::Replace{Pattern::read(spec["pattern"], where), require<std::string>(spec, "content", where)});
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    const auto form = type == "NFC"    ? UnicodeForm::nfc
                      : type == "NFD"  ? UnicodeForm::nfd
                      : type == "NFKC" ? UnicodeForm::nfkc
                                       : UnicodeForm::nfkd;
    steps_.emplace_back(normal::Form{form});
  } else if (type == "Lowercase") {
    steps_.emplace_back(normal::Lowercase{});
  } else if (type == "Strip") {
    steps_.emplace_back(normal::Strip{value_or(spec, "strip_left", true, where), value_or(spec, "strip_right", true, where)});
  } else if (type == "ByteLevel") {
    steps_.emplace_back(normal::ByteLevel{});
  } else if (type == "Precompiled") {
    steps_.emplace_back(read_precompiled(spec, where));
  } else {
    fail_field(where, "normalizer.type", "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, ByteLevel or Precompiled",
               &spec["type"]);
  }
}

std::string Normalizer::apply(std::string_view text) const {
  std::string now(text);
  for (const Step& step : steps_) now = std::visit([&](const auto& s) { return run(s, now); }, step);
  return now;
}

}  // namespace thimble::data
