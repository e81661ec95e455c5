// What the families' configs share: fields read with bounds and an error that names them, the Llama-shaped core, RoPE in both spellings.
// Sizes are bounded before anything is derived from them: a config is as hostile as any file.
#pragma once
#include <optional>

#include "base/json.h"
#include "nn/spec.h"

namespace thimble::models {

// A family's own values where its config does not say (transformers' defaults).
struct Defaults {
  int64_t max_positions = 2048;
  double norm_eps = 1e-6, theta = 10000;
  bool tied_head = false;
  std::optional<int64_t> kv_heads{}, head_dim{};   // without: as many as heads, hidden / heads
  const char* activation_key = "hidden_act";
  const char* activation = "silu";                 // the one that the family has
  bool partial_rope = false;                       // a part of a head may turn
};

// Without `otherwise` the key must be there; absent or null is `otherwise`.
int64_t size_in(const Json&, const char* key, const std::string& where, int64_t most, std::optional<int64_t> otherwise = std::nullopt);
double positive(const Json&, const char* key, const std::string& where, double most, std::optional<double> otherwise = std::nullopt);
void refuse_unless(const Json&, const char* key, const Json& only, const std::string& where);
bool given(const Json&, const char* key);  // there and not null

// Sizes, norms, heads, RoPE, attention_bias and mlp_bias of a decoder whose layers are all alike; what else a family has it adds.
nn::ModelSpec read_decoder(const Json&, const std::string& family, const std::string& where, const Defaults&);

// Windows: which layers have one, by layer_types where the config lists them, else by `sliding(layer)`.
void set_window(nn::ModelSpec&, const Json&, const std::string& where, int layer, int64_t window, bool otherwise);
template <class F>
void set_windows(nn::ModelSpec& m, const Json& c, const std::string& where, int64_t window, F&& sliding) {
  for (int l = 0; l < int(m.layers.size()); ++l) set_window(m, c, where, l, window, sliding(l));
}

Json layer_types(const nn::ModelSpec&);       // as configs list them
Json largest_window(const nn::ModelSpec&);    // null: none

// One RoPE: an object {rope_type | type, ...}; `theta` where it names none.
nn::RopeSpec read_rope(const Json& rope, const Json& config, const std::string& where, const nn::ModelSpec&, int64_t head_dim, double theta, const Defaults&);
Json rope_of(const nn::RopeSpec&);  // null: plain

}  // namespace thimble::models
