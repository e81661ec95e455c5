// Phi3ForCausalLM: Phi-3, Phi-3.5 and Phi-4 (text), a Llama whose files hold q k v in one tensor and gate and up in another (modeling_phi3).
#pragma once
#include "models/registry.h"

namespace thimble::models {

nn::ModelSpec read_phi3(const Json& config, const std::string& where);
void write_phi3(Json& config, const nn::ModelSpec&);

}  // namespace thimble::models
