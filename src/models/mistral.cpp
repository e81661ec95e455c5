// MistralForCausalLM: Mistral 7B, Nemo, Small, Large: a Llama whose tokens may see a window of keys only (transformers, modeling_mistral).
// sliding_window is 4096 where the config does not name it, and none where it names null.
#include "models/config.h"
#include "models/registry.h"

namespace thimble::models {
namespace {

nn::ModelSpec read(const Json& c, const std::string& where) {
  refuse_unless(c, "attention_bias", false, where);
  refuse_unless(c, "mlp_bias", false, where);
  nn::ModelSpec m = read_decoder(c, "mistral", where, {.max_positions = 131072, .kv_heads = 8});
  const int64_t window = c.contains("sliding_window") && c["sliding_window"].is_null() ? 0 : size_in(c, "sliding_window", where, int64_t{1} << 31, 4096);
  set_windows(m, c, where, window, [](int) { return true; });
  return m;
}

void write(Json& c, const nn::ModelSpec& m) { c["sliding_window"] = largest_window(m); }

}  // namespace

Family mistral() { return {"MistralForCausalLM", "mistral", read, write}; }

}  // namespace thimble::models
