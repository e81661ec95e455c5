// Reads a SentencePiece model (tokenizer.model), a protocol buffer, as what it means in the form of a tokenizer.json.
// Fields as in sentencepiece_model.proto; ids and merges equal those that transformers' converters make of the file.
#pragma once
#include "data/tokenizer_file.h"

namespace thimble::data {

// `config` is tokenizer_config.json or null; names of bos and eos that it lacks are filled in from the model.
TokenizerFile read_sentencepiece_file(const fs::path&, Json& config);
TokenizerFile parse_sentencepiece(std::string_view bytes, std::string where, Json& config);

}  // namespace thimble::data
