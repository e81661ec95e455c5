// The first stage of a tokenizer: rewrites text before it is split (Unicode forms, replacements, the "▁" put in front).
// A Sequence in the file is flattened, so a normalizer is a plain list of steps.
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/charsmap.h"
#include "data/pattern.h"

namespace thimble::data {

enum class UnicodeForm { nfc, nfd, nfkc, nfkd };
std::string to_form(std::string_view text, UnicodeForm);

namespace normal {
struct Prepend {
  std::string text;
};
struct Replace {
  Pattern pattern;
  std::string with;
};
struct Form {
  UnicodeForm form;
};
struct Lowercase {};
struct Strip {
  bool left, right;
};
struct ByteLevel {};
struct Precompiled {
  Charsmap charsmap;
};
}  // namespace normal

class Normalizer {
 public:
  static Normalizer read(const Json& spec, std::string_view where);  // null: changes nothing
  std::string apply(std::string_view text) const;
  bool empty() const { return steps_.empty(); }

 private:
  using Step = std::variant<normal::Prepend, normal::Replace, normal::Form, normal::Lowercase, normal::Strip, normal::ByteLevel,
                            normal::Precompiled>;
  void add(const Json& spec, std::string_view where);
  std::vector<Step> steps_;
};

}  // namespace thimble::data
