// SeedOssForCausalLM: Seed-OSS 36B, a Llama with biases on q, k and v and heads of 128 whatever hidden is (transformers, modeling_seed_oss).
// The dropouts that its config names are not applied, as for every family: a run names its own.
#include "models/config.h"
#include "models/registry.h"

namespace thimble::models {
namespace {

nn::ModelSpec read(const Json& c, const std::string& where) {
  nn::ModelSpec m = read_decoder(c, "seed_oss", where, {.max_positions = 524288, .kv_heads = 8, .head_dim = 128});
  for (auto& l : m.layers) {
    l.qkv_bias = value_or<bool>(c, "attention_bias", true, where);
    l.o_bias = value_or<bool>(c, "attention_out_bias", false, where);
  }
  return m;
}

void write(Json& c, const nn::ModelSpec& m) {
  c["attention_bias"] = m.layers.front().qkv_bias;
  c["attention_out_bias"] = m.layers.front().o_bias;
  c["mlp_bias"] = m.layers.front().mlp_bias;
}

}  // namespace

Family seed_oss() { return {"SeedOssForCausalLM", "seed_oss", read, write}; }

}  // namespace thimble::models
