// Tokens that are cut out of text before anything else sees it: <|im_start|>, </s>, <tool_call>. Special ones only on request,
// so that what a user typed never becomes one.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/normalizer.h"
#include "data/pattern.h"

namespace thimble::data {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
};

std::vector<AddedToken> read_added_tokens(const Json& list, std::string_view where);

// Whether a special token may stand in a stretch of a text.
using SpecialRule = std::function<bool(Span)>;

// A stretch of text: a token, or (token == -1) text between tokens.
struct Section {
  int32_t token = -1;
  Span span;
};

// Finds tokens from left to right, of those that begin at one place the longest.
class TokenFinder {
 public:
  TokenFinder() = default;
  // Of `tokens` those whose `normalized` is as given; they are sought in normalised text by their normalised content.
  TokenFinder(const std::vector<AddedToken>& tokens, bool normalized, const Normalizer&);
  std::vector<Section> cut(std::string_view text, bool with_special, const SpecialRule* rule = nullptr) const;

 private:
  int32_t longest_at(std::string_view text, size_t at, size_t& length) const;  // index into tokens_, -1 for none
  std::vector<AddedToken> tokens_;
  std::array<bool, 256> begins_{};               // some token begins with this byte
  std::unordered_map<uint64_t, int32_t> steps_;  // the trie: node << 8 | byte -> node
  std::vector<int32_t> ends_;                    // by node: the token that ends there, -1 for none
};

}  // namespace thimble::data
