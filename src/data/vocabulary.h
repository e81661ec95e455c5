// Tokens by id and ids by token.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace thimble::data {

class Vocabulary {
 public:
  Vocabulary() = default;
  Vocabulary(std::vector<std::pair<std::string, int64_t>> entries, std::string_view where, int64_t limit);  // distinct ids below limit

  int64_t size() const { return int64_t(tokens_.size()); }  // the largest id plus one
  std::optional<int32_t> find(std::string_view token) const;
  const std::string* token(int64_t id) const;  // nothing for a gap or an id out of range

 private:
  std::vector<std::string> tokens_;
  std::vector<bool> present_;
  std::unordered_map<std::string_view, int32_t> ids_;  // views of tokens_, whose strings stay where they are, also in a move
};

}  // namespace thimble::data
