// LlamaForCausalLM: Llama 2 and 3.x, TinyLlama and whatever shares their config (transformers, modeling_llama).
// The core that the others add to.
#include "models/config.h"
#include "models/registry.h"

namespace thimble::models {
namespace {

nn::ModelSpec read(const Json& c, const std::string& where) { return read_decoder(c, "llama", where, {}); }

void write(Json& c, const nn::ModelSpec& m) {
  c["attention_bias"] = m.layers.front().qkv_bias;
  c["mlp_bias"] = m.layers.front().mlp_bias;
}

}  // namespace

Family llama() { return {"LlamaForCausalLM", "llama", read, write}; }

}  // namespace thimble::models
