// Tokens by id and ids by token.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "data/strings.h"

namespace thimble::data {

class Vocabulary {
 public:
  Vocabulary() = default;
  // words[i] has ids[i]. Throws Error (bad_input) unless words and ids are distinct and the ids below `limit`.
  Vocabulary(Strings words, const std::vector<int64_t>& ids, std::string_view where, int64_t limit);

  int64_t size() const { return int64_t(by_id_.size()); }  // the largest id plus one
  std::optional<int32_t> find(std::string_view token) const;
  std::optional<std::string_view> token(int64_t id) const;  // nothing for a gap or an id out of range

 private:
  size_t slot_of(std::string_view token, size_t hash) const;  // where it stands in slots_, or the free place where it would
  Strings words_;
  std::vector<int32_t> by_id_;  // index in words_, -1 for a gap
  std::vector<int32_t> slots_;  // ids by hash of the word, open addressing, each beside seven bits of the hash; -1 is free
};

// The tokens <0x00> ... <0xFF>, which stand for bytes of characters that have no token. Throws Error (bad_input) where one lacks.
std::array<int32_t, 256> byte_tokens(const Vocabulary&, std::string_view where);

}  // namespace thimble::data
