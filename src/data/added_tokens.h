// Tokens that are cut out of text before anything else sees it: <|im_start|>, </s>, <tool_call>. Special ones only on request,
// so that what a user typed never becomes one.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "data/normalizer.h"
#include "data/pattern.h"
#include "data/trie.h"

namespace thimble::data {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false, normalized = false, lstrip = false, rstrip = false, single_word = false;
};

AddedToken read_added_token(const Json& entry, std::string_view where);
std::vector<AddedToken> distinct(std::vector<AddedToken>, std::string_view where);  // throws Error (bad_input) where an id or a content stands twice

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
  std::vector<AddedToken> tokens_;
  std::array<bool, 256> begins_{};  // some token begins with this byte
  Trie trie_;                       // of what is sought, to the index in tokens_
};

}  // namespace thimble::data
