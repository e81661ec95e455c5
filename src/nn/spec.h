// Structure as data: what a model is, read from its config by models/, run by the one decoder. No weights, no plan, no device.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace thimble::nn {

// How positions turn into angles (formats: transformers' modeling_rope_utils).
struct RopeSpec {
  enum class Kind : uint8_t { plain, linear, llama3 };
  Kind kind = Kind::plain;
  double theta = 10000;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;  // linear, llama3
  int64_t original_positions = 8192;                             // llama3
  bool operator==(const RopeSpec&) const = default;
};
// Radians per position for each of the D/2 pairs, in double and rounded once to f32.
std::vector<float> inverse_frequencies(const RopeSpec&, int64_t head_dim);

struct LayerSpec {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t ffn = 0;
  bool operator==(const LayerSpec&) const = default;
};

struct ModelSpec {
  std::string family;  // "llama"
  int64_t vocab = 0, hidden = 0, max_positions = 0;
  double norm_eps = 1e-5;
  bool tied_head = false;  // the head is the embedding table
  RopeSpec rope;
  std::vector<LayerSpec> layers;
  std::string dtype;  // of the files: "float32", "bfloat16", "float16"
};

}  // namespace thimble::nn
