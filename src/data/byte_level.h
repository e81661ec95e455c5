// GPT-2's alphabet of bytes: each of the 256 bytes has a printable character, so that BPE works on text and still sees bytes.
// Origin: encoder.py of GPT-2; printable Latin-1 stands for itself, the other 68 bytes take U+0100 and on, in order.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace thimble::data {

constexpr bool stands_for_itself(int byte) { return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174; }

struct ByteAlphabet {
  std::array<char32_t, 256> character{};
  std::array<int16_t, 0x144> byte{};  // by character; -1 where it stands for none
};

constexpr ByteAlphabet make_byte_alphabet() {
  ByteAlphabet a;
  for (auto& b : a.byte) b = -1;
  char32_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    a.character[size_t(b)] = stands_for_itself(b) ? char32_t(b) : next++;
    a.byte[a.character[size_t(b)]] = int16_t(b);
  }
  return a;
}
inline constexpr ByteAlphabet byte_alphabet = make_byte_alphabet();

std::string to_byte_level(std::string_view bytes);
std::optional<std::string> from_byte_level(std::string_view text);  // nothing where a character stands for no byte

}  // namespace thimble::data
