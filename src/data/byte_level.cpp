// Bytes to characters and back, by table.
#include "data/byte_level.h"

#include "data/utf8.h"

namespace thimble::data {

std::string to_byte_level(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() + bytes.size() / 2);
  for (const char b : bytes) append_utf8(out, byte_alphabet.character[static_cast<unsigned char>(b)]);
  return out;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = code_point_at(text, at);
    const int byte = c.value < byte_alphabet.byte.size() ? byte_alphabet.byte[c.value] : -1;
    if (byte < 0) return std::nullopt;
    out += char(byte);
    at += size_t(c.bytes);
  }
  return out;
}

}  // namespace thimble::data
