// The files that make a folder a model before it has weights: tokenizer.json, tokenizer_config.json, config.json, generation_config.json.
// The tokenizer is an ordinary byte-level BPE whose words are whole tokens, so that any text can be typed and the world's words cost one each.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace thimble::demo {

struct ModelShape {
  int hidden = 192, layers = 4, ffn = 448, heads = 6, kv_heads = 6, max_position = 256;
};

struct ModelFiles {
  int vocabulary = 0;      // tokens
  int64_t parameters = 0;  // of the Llama that config.json describes, head tied to the embedding
};

ModelFiles write_model_files(const std::filesystem::path& folder, const std::vector<std::string>& words, const ModelShape&);

}  // namespace thimble::demo
