// Tokenizers without a tokenizer.json, given as what they mean in that form, so that one set of stages serves all.
// tiktoken: lines of "base64-of-the-bytes rank"; ranks are ids and the order of merges. SentencePiece: see sentencepiece_file.h.
#pragma once
#include "data/tokenizer_file.h"

namespace thimble::data {

bool is_tiktoken(std::string_view text);  // its first line is one of a tiktoken file
// `config` is tokenizer_config.json, which alone knows the added tokens (added_tokens_decoder), `family` the model_type of config.json,
// which decides the expression that splits text. The result equals what transformers' TikTokenConverter makes.
TokenizerFile read_tiktoken_file(const fs::path&, const Json& config, std::string_view family);

}  // namespace thimble::data
