// What a tokenizer file searches for: a literal string, or a regular expression written for Oniguruma, run by PCRE2.
// Expressions come from strangers: their size, the steps of one match and its memory are limited, and a breach is an Error.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace thimble::data {

struct Span {
  size_t begin = 0, end = 0;
};

class Pattern {
 public:
  static Pattern literal(std::string text);
  static Pattern regex(std::string_view expression, std::string_view where);
  static Pattern read(const Json& spec, std::string_view where);  // {"String": ...} or {"Regex": ...}

  std::vector<Span> find_all(std::string_view text) const;               // from left to right, apart; `text` is valid UTF-8
  void find_all(std::string_view text, std::vector<Span>& found) const;  // overwrites `found`
  std::string replace_all(std::string_view text, std::string_view with) const;

 private:
  struct Code;  // a compiled expression; shared, since it is never written again
  std::string literal_;
  std::shared_ptr<const Code> code_;
};

}  // namespace thimble::data
