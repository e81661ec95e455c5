// The second stage of a tokenizer: cuts text into the pieces that the model may not merge across.
// Pieces are places in one text, the caller's own where no step rewrites it, so that a megabyte of words is copied by nobody.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "data/pattern.h"

namespace thimble::data {

struct Pieces {
  std::string_view text;
  std::vector<Span> spans;  // of each piece, none empty
  bool at_start = false;    // the first piece begins where the whole input begins

  size_t count() const { return spans.size(); }
  std::string_view operator[](size_t i) const { return text.substr(spans[i].begin, spans[i].end - spans[i].begin); }
};

// What becomes of a match.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

namespace cut {  // steps that cut pieces
struct Split {
  Pattern pattern;
  Behavior behavior;
  bool invert;
};
struct Characters {  // each character of a class is a match
  bool (*is_in)(char32_t);
  Behavior behavior;
};
struct Words {};  // runs of word characters, runs of others, blanks dropped
}  // namespace cut

namespace rewrite {  // steps that write each piece anew
struct Metaspace {
  std::string replacement;
  enum class Prepend { always, first, never } prepend;
};
struct PrefixSpace {};
struct ByteLevel {};
}  // namespace rewrite

class PreTokenizer {
 public:
  struct Scratch {
    std::vector<Span> spans, matches;
    std::string text, spare;  // what steps wrote
  };
  static PreTokenizer read(const Json& spec, std::string_view where);  // null: one piece
  // Afterwards `out` sees into `text` or into the scratch. The byte-level alphabet, where it is the last step, is left to the caller:
  // most pieces are words whose ids are known, and need never be written in it.
  void apply(std::string_view text, bool at_start, Pieces& out, Scratch&) const;
  bool byte_level_is_left() const { return byte_level_is_left_; }

 private:
  using Step = std::variant<cut::Split, cut::Characters, cut::Words, rewrite::Metaspace, rewrite::PrefixSpace, rewrite::ByteLevel>;
  void add(const Json& spec, std::string_view where);
  std::vector<Step> steps_;
  bool byte_level_is_left_ = false;
};

}  // namespace thimble::data
