// Reads tokenizer.json. A vocabulary of 128k entries and as many merges do not go through a Json value, whose ordered objects
// find a key by walking: the two large members stream into plain lists, everything else is small and becomes Json.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "data/strings.h"

namespace thimble::data {

struct TokenizerFile {
  std::string where;           // the path, for messages
  Json rest;                   // without model.vocab and model.merges
  Strings words;               // model.vocab, in the order of the file
  std::vector<int64_t> ids;    // of words
  std::vector<double> scores;  // of words, log-probabilities; of a Unigram model only, whose ids are the places in the list
  Strings merges;              // model.merges, best first, two a merge; "a b" or ["a", "b"] in the file
};

TokenizerFile read_tokenizer_file(const fs::path&);
TokenizerFile parse_tokenizer_file(std::string_view text, std::string where);

}  // namespace thimble::data
