// UTF-8 by code point: checking, stepping, repairing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace thimble {

struct CodePoint {
  char32_t value = 0;  // U+FFFD where bytes are no character
  int bytes = 1;       // length; of bad bytes the longest part that could have begun a character
  bool ok = false;
};
CodePoint code_point_at(std::string_view text, size_t at);  // at < text.size()

void append_utf8(std::string& out, char32_t c);
std::string to_utf8(char32_t c);

size_t first_invalid_utf8(std::string_view text);  // npos where all is well
std::string repair_utf8(std::string_view bytes);   // each bad part becomes one U+FFFD

}  // namespace thimble
