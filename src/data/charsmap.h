// SentencePiece's table of replacements (`precompiled_charsmap`): NFKC and more, as the model's authors trained with it.
// Layout (builder.cc of SentencePiece): the bytes of a double-array trie (u32, little-endian), the trie's units (u32 each, as darts-clone
// writes them), then the replacements, each ended by a NUL; a value of the trie is a place among these.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::data {

class Charsmap {
 public:
  Charsmap(std::string_view bytes, std::string_view where);  // throws Error (bad_input) on a damaged table
  std::string apply(std::string_view text) const;

 private:
  std::optional<std::string_view> replacement_of(std::string_view key) const;  // of the shortest beginning that has one
  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace thimble::data
