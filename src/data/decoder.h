// The last stage of a tokenizer: tokens back to text.
// A Sequence in the file is flattened; each step takes the list of token texts and gives another, joined at the end.
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/pattern.h"

namespace thimble::data {

namespace join {
struct ByteLevel {};
struct ByteFallback {};
struct Fuse {};
struct Replace {
  Pattern pattern;
  std::string with;
};
struct Strip {
  std::string content;
  size_t start, stop;
};
struct Metaspace {
  std::string replacement;
  bool drops_first;
};
}  // namespace join

class Decoder {
 public:
  static Decoder read(const Json& spec, std::string_view where);  // null: tokens joined by blanks, as the reference does
  std::string apply(std::vector<std::string> tokens) const;

 private:
  using Step = std::variant<join::ByteLevel, join::ByteFallback, join::Fuse, join::Replace, join::Strip, join::Metaspace>;
  void add(const Json& spec, std::string_view where);
  std::vector<Step> steps_;
  bool blanks_between_ = false;
};

}  // namespace thimble::data
