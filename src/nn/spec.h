// Structure as data: what a model is, read from its config by models/, run by the one decoder. No weights, no plan, no device.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ops/swiglu.h"
#include "quant/weight.h"

namespace thimble::nn {

// How positions turn into angles (formats: transformers' modeling_rope_utils).
struct RopeSpec {
  enum class Kind : uint8_t { plain, linear, dynamic, llama3, yarn, longrope };
  Kind kind = Kind::plain;
  double theta = 10000;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;  // linear, dynamic, llama3, yarn; the latter two llama3
  int64_t original_positions = 8192;                             // all but plain and linear
  double share = 1;                                              // of a head's channels that turn, the first ones
  double attention_factor = 1;                                   // yarn, longrope: of cosines and sines
  double beta_fast = 32, beta_slow = 1;                          // yarn
  bool truncate = true;                                          // yarn
  std::vector<double> short_factor, long_factor;                 // longrope: by pair
  bool operator==(const RopeSpec&) const = default;

  int64_t pairs(int64_t head_dim) const { return int64_t(double(head_dim) * share) / 2; }
  bool follows_length() const { return kind == Kind::dynamic || kind == Kind::longrope; }
  // Are the frequencies of sequences of both lengths the same?
  bool same_for(int64_t a, int64_t b) const;
};
// Radians per position for each of the pairs in a sequence of `length` positions, rounded to f32 where transformers rounds.
std::vector<float> inverse_frequencies(const RopeSpec&, int64_t head_dim, int64_t length = 0);

// What a layer has beyond a Llama's is off where it is not named, and then costs nothing.
struct LayerSpec {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t ffn = 0;
  int64_t window = 0;                                       // keys that a token sees at most; 0: all of its document
  bool local_rope = false;                                  // turns by the model's second RoPE
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool head_norms = false;                                  // q and k are normed, head by head, before RoPE
  bool norms_after = false;                                 // attention's and the MLP's output are normed before they join the residual
  bool operator==(const LayerSpec&) const = default;
};

// How the files hold the layers' matrices: plain, or packed but for some modules. (8-bit floats count as plain: they are read as numbers.)
struct StoredAs {
  quant::FormatId format = quant::FormatId::dense;
  std::vector<std::string> kept{};  // beginnings or ends of modules' names, as transformers' llm_int8_skip_modules
  bool keeps(std::string_view module) const;
  bool operator==(const StoredAs&) const = default;
};

struct ModelSpec {
  std::string family;  // "llama": the model_type of its config
  int64_t vocab = 0, hidden = 0, max_positions = 0;
  double norm_eps = 1e-5;
  bool tied_head = false;  // the head is the embedding table
  RopeSpec rope, local_rope;
  std::vector<LayerSpec> layers;
  std::string dtype;  // of the files: "float32", "bfloat16", "float16"
  ops::Activation activation = ops::Activation::silu;
  float norm_offset = 0;           // norms multiply by their weight and this
  bool scaled_embedding = false;   // by sqrt(hidden)
  double query_scalar = 0;         // scores are divided by its square root; 0: by that of head_dim
  float attention_cap = 0, logit_cap = 0;  // soft caps; 0: none
  bool fused_files = false;        // q k v lie in one tensor of the files, gate and up in another
  StoredAs stored;
  bool rope_follows_length() const { return rope.follows_length() || local_rope.follows_length(); }
  bool operator==(const ModelSpec&) const = default;
};

}  // namespace thimble::nn
