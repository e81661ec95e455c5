// Four letters are three bytes; only the last four may be filled up with '='.
#include "data/base64.h"

#include <array>
#include <cstdint>

namespace thimble::data {
namespace {

constexpr std::array<int8_t, 256> values = [] {
  std::array<int8_t, 256> v{};
  v.fill(-1);
  constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < letters.size(); ++i) v[static_cast<unsigned char>(letters[i])] = int8_t(i);
  return v;
}();

}  // namespace

std::optional<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
  std::string bytes;
  bytes.reserve(text.size() * 3 / 4);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int value = values[static_cast<unsigned char>(c)];
    if (value < 0) return std::nullopt;
    bits = bits << 6 | uint32_t(value);
    count += 6;
    if (count >= 8) bytes += char(bits >> (count -= 8) & 0xff);
  }
  return bytes;
}

}  // namespace thimble::data
