// LlamaForCausalLM: Llama 2 and 3.x, TinyLlama and whatever shares their config (transformers, modeling_llama).
#pragma once
#include "models/registry.h"

namespace thimble::models {

nn::ModelSpec read_llama(const Json& config, const std::string& where);
void write_llama(Json& config, const nn::ModelSpec&);

}  // namespace thimble::models
