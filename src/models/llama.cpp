// Sizes are bounded before anything is derived from them: a config is as hostile as any file.
#include "models/llama.h"

namespace thimble::models {
namespace {

int64_t size_in(const Json& c, const char* key, const std::string& where, int64_t most, std::optional<int64_t> otherwise = std::nullopt) {
  const int64_t v = otherwise ? value_or<int64_t>(c, key, *otherwise, where) : require<int64_t>(c, key, where);
  if (v < 1 || v > most) fail_field(where, key, fmt::format("an integer from 1 to {}", most), c.contains(key) ? &c[key] : nullptr);
  return v;
}

double positive(const Json& c, const char* key, const std::string& where, double otherwise) {
  const double v = value_or<double>(c, key, otherwise, where);
  if (!(v > 0)) fail_field(where, key, "a positive number", &c[key]);
  return v;
}

// Both spellings: rope_theta beside rope_scaling {rope_type | type}, and rope_parameters {rope_theta, rope_type}.
nn::RopeSpec read_rope(const Json& c, const std::string& where, int64_t max_positions) {
  nn::RopeSpec rope;
  rope.theta = positive(c, "rope_theta", where, rope.theta);
  const char* key = c.contains("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!c.contains(key) || c[key].is_null()) return rope;
  const Json& s = c[key];
  if (!s.is_object()) fail_field(where, key, "an object", &s);
  rope.theta = positive(s, "rope_theta", where, rope.theta);
  const auto type = value_or<std::string>(s, "rope_type", value_or<std::string>(s, "type", "default", where), where);
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3") fail_field(where, std::string(key) + ".rope_type", "default, linear or llama3", &s);
  rope.kind = type == "linear" ? nn::RopeSpec::Kind::linear : nn::RopeSpec::Kind::llama3;
  rope.factor = positive(s, "factor", where, 0);
  if (rope.kind == nn::RopeSpec::Kind::linear) return rope;
  rope.low_freq_factor = positive(s, "low_freq_factor", where, 0);
  rope.high_freq_factor = positive(s, "high_freq_factor", where, 0);
  if (rope.high_freq_factor <= rope.low_freq_factor) fail_field(where, "high_freq_factor", "more than low_freq_factor", &s);
  rope.original_positions = size_in(s, "original_max_position_embeddings", where, int64_t{1} << 31, max_positions);
  return rope;
}

void refuse_unless(const Json& c, const char* key, const Json& only, const std::string& where) {
  const auto it = c.find(key);
  if (it != c.end() && !it->is_null() && *it != only) fail_field(where, key, "only " + only.dump() + " is supported", &*it);
}

}  // namespace

nn::ModelSpec read_llama(const Json& c, const std::string& where) {
  refuse_unless(c, "hidden_act", "silu", where);
  refuse_unless(c, "attention_bias", false, where);
  refuse_unless(c, "mlp_bias", false, where);
  nn::ModelSpec m{.family = "llama"};
  constexpr int64_t most = int64_t{1} << 24;
  m.vocab = size_in(c, "vocab_size", where, most);
  m.hidden = size_in(c, "hidden_size", where, most);
  m.max_positions = size_in(c, "max_position_embeddings", where, int64_t{1} << 31, 2048);
  m.norm_eps = positive(c, "rms_norm_eps", where, 1e-6);
  m.tied_head = value_or<bool>(c, "tie_word_embeddings", false, where);
  m.dtype = value_or<std::string>(c, "dtype", value_or<std::string>(c, "torch_dtype", "float32", where), where);
  if (m.dtype != "float32" && m.dtype != "bfloat16" && m.dtype != "float16") fail_field(where, "torch_dtype", "float32, bfloat16 or float16", c.contains("dtype") ? &c["dtype"] : &c["torch_dtype"]);
  m.rope = read_rope(c, where, m.max_positions);
  nn::LayerSpec layer;
  layer.heads = size_in(c, "num_attention_heads", where, 65536);
  layer.kv_heads = size_in(c, "num_key_value_heads", where, 65536, layer.heads);
  layer.ffn = size_in(c, "intermediate_size", where, most);
  layer.head_dim = size_in(c, "head_dim", where, 4096, std::max<int64_t>(1, m.hidden / layer.heads));
  if (layer.heads % layer.kv_heads) fail_field(where, "num_key_value_heads", fmt::format("a divisor of {} heads", layer.heads), &c["num_key_value_heads"]);
  if (layer.head_dim % 2) fail_field(where, "head_dim", "an even number, which RoPE turns in pairs", c.contains("head_dim") ? &c["head_dim"] : nullptr);
  m.layers.assign(size_t(size_in(c, "num_hidden_layers", where, 10000)), layer);
  return m;
}

}  // namespace thimble::models
