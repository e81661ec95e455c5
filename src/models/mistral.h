// MistralForCausalLM: Mistral 7B, Nemo, Small, Large: a Llama whose tokens may see a window of keys only (transformers, modeling_mistral).
#pragma once
#include "models/registry.h"

namespace thimble::models {

nn::ModelSpec read_mistral(const Json& config, const std::string& where);
void write_mistral(Json& config, const nn::ModelSpec&);

}  // namespace thimble::models
