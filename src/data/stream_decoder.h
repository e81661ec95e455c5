// Text of tokens that come one at a time: whole characters only, and never a blank lost at a seam.
// It decodes a short window again and gives what is new, so it is right for every decoder without knowing any.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace thimble::data {

class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true) : tokenizer_(tokenizer), skip_special_(skip_special) {}
  std::string push(int32_t id);  // the text that is certain now, often nothing
  std::string finish();          // what is left at the end: a character that never became whole is U+FFFD

 private:
  std::string take(bool all);
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::vector<int32_t> window_;  // tokens given out last, which decide on blanks, then those not wholly given out
  size_t settled_ = 0;           // of window_: how many belong to the former
  std::string given_;            // how much of the window's text is out
  int idle_ = 0;                 // pushes since something came out
};

}  // namespace thimble::data
