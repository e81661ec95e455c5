// Text whose bytes know who wrote them. A template mixes its own words with those of a conversation; what it cuts, joins, trims or
// replaces keeps its origin, so that the tokenizer can tell a template's "<|im_end|>" from one that a user typed.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace thimble::data::jinja {

// 0: the template. 1 + i: message i. other_data: tools and whatever else a caller hands in.
using Origin = char16_t;
constexpr Origin of_template = 0, other_data = 0xffff;
constexpr size_t most_messages = other_data - 1;

class Text {
 public:
  Text() = default;
  Text(std::string bytes, Origin origin = of_template) : bytes_(std::move(bytes)), all_(origin) {}
  Text(const char* bytes) : bytes_(bytes) {}

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  Origin origin(size_t at) const { return each_.empty() ? all_ : each_[at]; }
  // Of text that is made from all of this: what anyone but the template had a part in is not the template's.
  Origin origin_of_all() const;

  Text substr(size_t begin, size_t count = std::string::npos) const;
  Text& operator+=(const Text&);
  Text& append(std::string_view bytes, Origin);
 private:
  void spell_out();  // each_ of as many entries as bytes
  std::string bytes_;
  Origin all_ = of_template;  // where each_ is empty
  std::u16string each_;
};

inline Text operator+(Text a, const Text& b) { return std::move(a += b); }

// Python's notion of length, index and slice is by code points; bytes are valid UTF-8.
size_t length(const Text&);
size_t byte_of(const Text&, size_t code_point);  // its first byte; size() beyond the end

// As Python's str methods of these names. chars null: white space.
Text strip(const Text&, const Text* chars, bool left, bool right);
Text replace(const Text&, std::string_view from, const Text& to, int64_t most = -1);
Text upper(const Text&);
Text lower(const Text&);
Text capitalize(const Text&);
Text title(const Text&);       // str.title()
Text title_words(const Text&); // the filter `title`: words end at blanks, - and opening brackets only

}  // namespace thimble::data::jinja
