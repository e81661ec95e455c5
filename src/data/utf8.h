// The few character classes that tokenizer files speak of, of code points as base/utf8.h steps over them.
// They follow Unicode as the reference tokenizers see it (White_Space, word characters, numbers, punctuation).
#pragma once
#include "base/utf8.h"

namespace thimble::data {

bool is_whitespace(char32_t);
bool is_word(char32_t);  // letters, marks, decimal digits, connectors, joiners
bool is_numeric(char32_t);
bool is_punctuation(char32_t);

}  // namespace thimble::data
