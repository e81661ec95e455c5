// Qwen2ForCausalLM (Qwen 2 and 2.5: biases on q, k and v) and Qwen3ForCausalLM (norms of heads before RoPE): transformers, modeling_qwen2, _qwen3.
// A window counts where use_sliding_window says so, and then in the layers from max_window_layers on.
#include "models/config.h"
#include "models/registry.h"

namespace thimble::models {
namespace {

void read_windows(nn::ModelSpec& m, const Json& c, const std::string& where) {
  if (!value_or<bool>(c, "use_sliding_window", false, where)) return;
  if (c.contains("sliding_window") && c["sliding_window"].is_null()) return;
  const int64_t window = size_in(c, "sliding_window", where, int64_t{1} << 31, 4096);
  const auto full = value_or<int64_t>(c, "max_window_layers", 28, where);
  set_windows(m, c, where, window, [&](int l) { return l >= full; });
}

void write_windows(Json& c, const nn::ModelSpec& m) {
  c["sliding_window"] = largest_window(m);
  c["use_sliding_window"] = !c["sliding_window"].is_null();
  c["layer_types"] = layer_types(m);
}

nn::ModelSpec read_qwen2(const Json& c, const std::string& where) {
  refuse_unless(c, "mlp_bias", false, where);
  Json known = c;
  known.erase("attention_bias");  // modeling_qwen2 does not ask for it
  nn::ModelSpec m = read_decoder(known, "qwen2", where, {.max_positions = 32768, .kv_heads = 32});
  for (auto& l : m.layers) l.qkv_bias = true;
  read_windows(m, c, where);
  return m;
}

nn::ModelSpec read_qwen3(const Json& c, const std::string& where) {
  refuse_unless(c, "mlp_bias", false, where);
  nn::ModelSpec m = read_decoder(c, "qwen3", where, {.max_positions = 32768, .kv_heads = 32, .head_dim = 128});
  for (auto& l : m.layers) l.head_norms = true;
  read_windows(m, c, where);
  return m;
}

void write_qwen2(Json& c, const nn::ModelSpec& m) { write_windows(c, m); }

void write_qwen3(Json& c, const nn::ModelSpec& m) {
  c["attention_bias"] = m.layers.front().o_bias;
  write_windows(c, m);
}

}  // namespace

Family qwen2() { return {"Qwen2ForCausalLM", "qwen2", read_qwen2, write_qwen2}; }
Family qwen3() { return {"Qwen3ForCausalLM", "qwen3", read_qwen3, write_qwen3}; }

}  // namespace thimble::models
