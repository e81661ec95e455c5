// Files that list tokens by rank and no merges imply them: a token may be put together from any two others, the lower token first.
#pragma once
#include <string_view>

#include "data/tokenizer_file.h"

namespace thimble::data {

// Of several halves of one token: those with the lowest ids first (tiktoken), or the shortest left half (SentencePiece).
enum class FirstHalves { lowest, shortest };

// Fills file.merges from file.words and file.ids. Throws Error (bad_input) where a token or id stands twice or a token is longer than 1
// KiB.
void add_implied_merges(TokenizerFile& file, FirstHalves);

}  // namespace thimble::data
