// The second stage of a tokenizer: cuts text into the pieces that BPE may not merge across.
// Pieces lie one after the other in one string, so a megabyte of words costs two buffers and not a hundred thousand strings.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/pattern.h"

namespace thimble::data {

struct Pieces {
  std::string text;
  std::vector<size_t> ends;  // of each piece, within text
  bool at_start = false;     // the first piece begins where the whole input begins

  size_t count() const { return ends.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i ? ends[i - 1] : 0;
    return std::string_view(text).substr(begin, ends[i] - begin);
  }
  void add(std::string_view piece) {
    if (piece.empty()) return;
    text += piece;
    ends.push_back(text.size());
  }
};

// What becomes of a match.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

namespace cut {
struct ByteLevel {
  bool add_prefix_space, use_regex;
  Pattern words;
};
struct Metaspace {
  std::string replacement;
  enum class Prepend { always, first, never } prepend;
  bool split;
};
struct Split {
  Pattern pattern;
  Behavior behavior;
  bool invert;
};
struct Characters {
  bool (*is_in)(char32_t);
  Behavior behavior;
};                // each character of a class is a match
struct Words {};  // runs of word characters, runs of others, blanks dropped
}  // namespace cut

class PreTokenizer {
 public:
  static PreTokenizer read(const Json& spec, std::string_view where);  // null: one piece
  Pieces apply(std::string_view text, bool at_start) const;

 private:
  using Step = std::variant<cut::ByteLevel, cut::Metaspace, cut::Split, cut::Characters, cut::Words>;
  void add(const Json& spec, std::string_view where);
  std::vector<Step> steps_;
};

}  // namespace thimble::data
