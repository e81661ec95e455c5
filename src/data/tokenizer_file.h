// Reads tokenizer.json. A vocabulary of 128k entries and as many merges do not become a tree of Json, which would take many times the file: the
// long members stream into plain lists, everything else is small.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "data/added_tokens.h"
#include "data/strings.h"

namespace thimble::data {

struct TokenizerFile {
  std::string where;           // the path, for messages
  Json rest;                   // without the lists that follow
  std::vector<AddedToken> added;
  Strings words;               // model.vocab, in the order of the file
  std::vector<int64_t> ids;    // of words
  std::vector<double> scores;  // of words, log-probabilities; of a Unigram model only, whose ids are the places in the list
  Strings merges;              // model.merges, best first, two a merge; "a b" or ["a", "b"] in the file
};

constexpr size_t max_added_tokens = 1 << 17;

TokenizerFile read_tokenizer_file(const fs::path&);
TokenizerFile parse_tokenizer_file(std::string_view text, std::string where);

}  // namespace thimble::data
