// Sizes are bounded before anything is derived from them: a config is as hostile as any file.
#include "models/llama.h"

namespace thimble::models {
namespace {

int64_t size_in(const Json& c, const char* key, const std::string& where, int64_t most, std::optional<int64_t> otherwise = std::nullopt) {
  const int64_t v = otherwise ? value_or<int64_t>(c, key, *otherwise, where) : require<int64_t>(c, key, where);
  if (v < 1 || v > most) fail_field(where, key, fmt::format("an integer from 1 to {}", most), c.contains(key) ? &c[key] : nullptr);
  return v;
}

// Absent or null is `otherwise`; without one the key must be there.
double positive(const Json& c, const char* key, const std::string& where, double most, std::optional<double> otherwise = std::nullopt) {
  const double v = otherwise ? value_or<double>(c, key, *otherwise, where) : require<double>(c, key, where);
  if (!(v > 0 && v <= most)) fail_field(where, key, fmt::format("a number above 0, at most {}", most), &c[key]);
  return v;
}

void refuse_unless(const Json& c, const char* key, const Json& only, const std::string& where) {
  const auto it = c.find(key);
  if (it != c.end() && !it->is_null() && *it != only) fail_field(where, key, "only " + only.dump() + " is supported", &*it);
}

bool given(const Json& c, const char* key) { return c.contains(key) && !c[key].is_null(); }

// Both spellings: rope_theta beside rope_scaling {rope_type | type}, and rope_parameters {rope_theta, rope_type}.
nn::RopeSpec read_rope(const Json& c, const std::string& where, int64_t max_positions) {
  constexpr double most_theta = 1e12, most_factor = 1e6;
  nn::RopeSpec rope;
  rope.theta = positive(c, "rope_theta", where, most_theta, rope.theta);
  refuse_unless(c, "partial_rotary_factor", 1, where);
  const char* key = given(c, "rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!given(c, key)) return rope;
  const Json& s = c[key];
  if (!s.is_object()) fail_field(where, key, "an object", &s);
  const std::string inside = where + ", " + key;
  rope.theta = positive(s, "rope_theta", inside, most_theta, rope.theta);
  refuse_unless(s, "partial_rotary_factor", 1, inside);
  const char* type_key = given(s, "rope_type") ? "rope_type" : "type";
  const auto type = value_or<std::string>(s, type_key, "default", inside);
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3") fail_field(inside, type_key, "default, linear or llama3", &s[type_key]);
  rope.kind = type == "linear" ? nn::RopeSpec::Kind::linear : nn::RopeSpec::Kind::llama3;
  rope.factor = positive(s, "factor", inside, most_factor);
  if (rope.kind == nn::RopeSpec::Kind::linear) return rope;
  rope.low_freq_factor = positive(s, "low_freq_factor", inside, most_factor);
  rope.high_freq_factor = positive(s, "high_freq_factor", inside, most_factor);
  if (rope.high_freq_factor <= rope.low_freq_factor)
    fail_field(inside, "high_freq_factor", fmt::format("more than low_freq_factor, {}", rope.low_freq_factor), &s["high_freq_factor"]);
  rope.original_positions = size_in(s, "original_max_position_embeddings", inside, int64_t{1} << 31, max_positions);
  return rope;
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
  m.norm_eps = positive(c, "rms_norm_eps", where, 1, 1e-6);
  m.tied_head = value_or<bool>(c, "tie_word_embeddings", false, where);
  const char* dtype_key = given(c, "dtype") ? "dtype" : "torch_dtype";
  m.dtype = value_or<std::string>(c, dtype_key, "float32", where);
  if (m.dtype != "float32" && m.dtype != "bfloat16" && m.dtype != "float16")
    fail_field(where, dtype_key, "float32, bfloat16 or float16", &c[dtype_key]);
  m.rope = read_rope(c, where, m.max_positions);
  nn::LayerSpec layer;
  layer.heads = size_in(c, "num_attention_heads", where, 65536);
  layer.kv_heads = size_in(c, "num_key_value_heads", where, 65536, layer.heads);
  layer.ffn = size_in(c, "intermediate_size", where, most);
  if (!given(c, "head_dim") && m.hidden % layer.heads)
    fail_field(where, "num_attention_heads", fmt::format("a divisor of hidden_size {}, or head_dim beside it", m.hidden),
               &c["num_attention_heads"]);
  layer.head_dim = size_in(c, "head_dim", where, 4096, m.hidden / layer.heads);
  if (layer.heads % layer.kv_heads)
    fail_field(where, "num_key_value_heads", fmt::format("a divisor of {} heads", layer.heads), &c["num_key_value_heads"]);
  if (layer.head_dim % 2)
    fail_field(where, "head_dim", fmt::format("an even number, which RoPE turns in pairs, not {}", layer.head_dim),
               c.contains("head_dim") ? &c["head_dim"] : nullptr);
  m.layers.assign(size_t(size_in(c, "num_hidden_layers", where, 10000)), layer);
  return m;
}

}  // namespace thimble::models
