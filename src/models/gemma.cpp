// Gemma2ForCausalLM and Gemma3ForCausalLM (text): norms about 1 + w before and after, GELU gates, windows in some layers, scaled embeddings;
// Gemma 2 caps scores and logits, Gemma 3 norms heads and turns local layers by a base of their own (transformers, modeling_gemma2, _gemma3).
// What both have, and then each its own.
#include "models/config.h"
#include "models/registry.h"

namespace thimble::models {
namespace {

constexpr double most_cap = 1e6;

float cap(const Json& c, const char* key, const std::string& where, std::optional<double> otherwise) {
  if (c.contains(key) ? c[key].is_null() : !otherwise) return 0;
  return float(positive(c, key, where, most_cap, otherwise));
}

nn::ModelSpec read_gemma(const Json& c, const std::string& family, const std::string& where, Defaults d) {
  refuse_unless(c, "use_bidirectional_attention", false, where);
  refuse_unless(c, "mlp_bias", false, where);
  d.tied_head = true, d.kv_heads = 4, d.head_dim = 256;
  d.activation_key = given(c, "hidden_activation") ? "hidden_activation" : "hidden_act", d.activation = "gelu_pytorch_tanh";
  nn::ModelSpec m = read_decoder(c, family, where, d);
  m.activation = ops::Activation::gelu_tanh;
  m.norm_offset = 1;
  m.scaled_embedding = true;
  m.query_scalar = positive(c, "query_pre_attn_scalar", where, 1e6, 256);
  for (auto& l : m.layers) l.norms_after = true;
  return m;
}

template <class F>
void read_windows(nn::ModelSpec& m, const Json& c, const std::string& where, F&& sliding) {
  if (c.contains("sliding_window") && c["sliding_window"].is_null()) return;
  set_windows(m, c, where, size_in(c, "sliding_window", where, int64_t{1} << 31, 4096), sliding);
}

void write_gemma(Json& c, const nn::ModelSpec& m) {
  const auto cap = [](float x) { return x > 0 ? Json(x) : Json(nullptr); };
  c.erase("hidden_act");
  c["hidden_activation"] = "gelu_pytorch_tanh";
  c["attention_bias"] = m.layers.front().o_bias;
  const auto whole = int64_t(m.query_scalar);  // transformers takes no 17.0 for 17
  c["query_pre_attn_scalar"] = double(whole) == m.query_scalar ? Json(whole) : Json(m.query_scalar);
  c["attn_logit_softcapping"] = cap(m.attention_cap);
  c["final_logit_softcapping"] = cap(m.logit_cap);
  c["sliding_window"] = largest_window(m);
  c["layer_types"] = layer_types(m);
}

nn::ModelSpec read_gemma2(const Json& c, const std::string& where) {
  nn::ModelSpec m = read_gemma(c, "gemma2", where, {.max_positions = 8192});
  m.attention_cap = cap(c, "attn_logit_softcapping", where, 50);
  m.logit_cap = cap(c, "final_logit_softcapping", where, 30);
  read_windows(m, c, where, [](int l) { return l % 2 == 0; });
  return m;
}

nn::ModelSpec read_gemma3(const Json& c, const std::string& where) {
  nn::ModelSpec m = read_gemma(c, "gemma3_text", where, {.max_positions = 131072, .theta = 1e6});
  m.logit_cap = cap(c, "final_logit_softcapping", where, std::nullopt);  // scores are never capped: modeling_gemma3 reads that key and does not use it
  for (auto& l : m.layers) l.head_norms = true;
  if (!given(c, "rope_parameters")) m.local_rope = {.theta = positive(c, "rope_local_base_freq", where, 1e12, 1e4)};
  const int64_t pattern = size_in(c, "sliding_window_pattern", where, 10000, 6);
  read_windows(m, c, where, [&](int l) { return (l + 1) % pattern != 0; });
  return m;
}

void write_gemma2(Json& c, const nn::ModelSpec& m) { write_gemma(c, m); }

void write_gemma3(Json& c, const nn::ModelSpec& m) {
  write_gemma(c, m);
  c["rope_local_base_freq"] = m.local_rope.theta;
}

}  // namespace

Family gemma2() { return {"Gemma2ForCausalLM", "gemma2", read_gemma2, write_gemma2}; }
Family gemma3() { return {"Gemma3ForCausalLM", "gemma3_text", read_gemma3, write_gemma3}; }

}  // namespace thimble::models
