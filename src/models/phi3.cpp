// Phi3ForCausalLM: Phi-3, Phi-3.5 and Phi-4 (text), a Llama whose files hold q k v in one tensor and gate and up in another (modeling_phi3).
// LongRoPE's original length stands outside rope_scaling, and is 4096 where it does not.
#include "models/config.h"
#include "models/registry.h"

namespace thimble::models {
namespace {

nn::ModelSpec read(const Json& c, const std::string& where) {
  refuse_unless(c, "attention_bias", false, where);
  refuse_unless(c, "mlp_bias", false, where);
  Json known = c;
  if (!given(c, "original_max_position_embeddings")) known["original_max_position_embeddings"] = 4096;
  nn::ModelSpec m = read_decoder(known, "phi3", where, {.max_positions = 4096, .norm_eps = 1e-5, .partial_rope = true});
  m.fused_files = true;
  if (given(c, "sliding_window")) set_windows(m, c, where, size_in(c, "sliding_window", where, int64_t{1} << 31), [](int) { return true; });
  return m;
}

void write(Json& c, const nn::ModelSpec& m) {
  c["sliding_window"] = largest_window(m);
  c["partial_rotary_factor"] = m.rope.share;
  if (m.rope.kind == nn::RopeSpec::Kind::longrope) c["original_max_position_embeddings"] = m.rope.original_positions;
}

}  // namespace

Family phi3() { return {"Phi3ForCausalLM", "phi3", read, write}; }

}  // namespace thimble::models
