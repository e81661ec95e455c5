// What is replaced is what the reference tokenizers replace: a grapheme of less than six bytes as a whole, or else each character.
#include "data/charsmap.h"

#include <utf8proc.h>

#include <cstring>

#include "base/error.h"
#include "data/utf8.h"

namespace thimble::data {
namespace {

constexpr size_t longest_grapheme = 5;

// Units of a double array: label in the low byte, its top bit set in a leaf that holds a value; bit 8 says that a leaf follows.
uint32_t label(uint32_t unit) { return unit & (1u << 31 | 0xff); }
uint32_t offset(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }
bool leaf_follows(uint32_t unit) { return unit >> 8 & 1; }
uint32_t value(uint32_t unit) { return unit & 0x7fffffff; }

size_t grapheme_end(std::string_view text, size_t at) {
  CodePoint last = code_point_at(text, at);
  utf8proc_int32_t state = 0;
  for (at += size_t(last.bytes); at < text.size();) {
    const CodePoint next = code_point_at(text, at);
    if (utf8proc_grapheme_break_stateful(utf8proc_int32_t(last.value), utf8proc_int32_t(next.value), &state)) break;
    last = next;
    at += size_t(next.bytes);
  }
  return at;
}

}  // namespace

Charsmap::Charsmap(std::string_view bytes, std::string_view where) {
  const auto refuse = [&](std::string expected) {
    return Error(Fault::bad_input, {.what = "the table of replacements is damaged",
                                    .where = fmt::format("{}, precompiled_charsmap", where),
                                    .expected = std::move(expected),
                                    .found = fmt::format("{} bytes", bytes.size())});
  };
  uint32_t size = 0;
  if (bytes.size() < sizeof size) throw refuse("the size of a trie");
  std::memcpy(&size, bytes.data(), sizeof size);
  bytes.remove_prefix(sizeof size);
  if (size == 0 || size % 4 != 0 || size > bytes.size()) throw refuse("a trie of whole units within the table");
  units_.resize(size / 4);
  std::memcpy(units_.data(), bytes.data(), size);
  replacements_ = bytes.substr(size);
  if (first_invalid_utf8(replacements_) != std::string::npos) throw refuse("replacements in UTF-8");
}

std::optional<std::string_view> Charsmap::replacement_of(std::string_view key) const {
  size_t node = offset(units_[0]);
  for (const char c : key) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) return std::nullopt;
    node ^= byte;
    if (node >= units_.size() || label(units_[node]) != byte) return std::nullopt;
    const uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!leaf_follows(unit)) continue;
    const size_t at = node < units_.size() ? value(units_[node]) : replacements_.size();
    if (at >= replacements_.size() || (replacements_[at] & 0xc0) == 0x80) return std::nullopt;  // a damaged trie
    const std::string_view rest = std::string_view(replacements_).substr(at);
    return rest.substr(0, rest.find('\0'));
  }
  return std::nullopt;
}

std::string Charsmap::apply(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const std::string_view grapheme = text.substr(at, grapheme_end(text, at) - at);
    at += grapheme.size();
    if (grapheme.size() <= longest_grapheme)
      if (const auto whole = replacement_of(grapheme)) {
        out += *whole;
        continue;
      }
    for (size_t i = 0; i < grapheme.size();) {
      const std::string_view character = grapheme.substr(i, size_t(code_point_at(grapheme, i).bytes));
      out += replacement_of(character).value_or(character);
      i += character.size();
    }
  }
  return out;
}

}  // namespace thimble::data
