// Qwen2ForCausalLM (Qwen 2 and 2.5: biases on q, k and v) and Qwen3ForCausalLM (norms of heads before RoPE): transformers, modeling_qwen2, _qwen3.
#pragma once
#include "models/registry.h"

namespace thimble::models {

nn::ModelSpec read_qwen2(const Json& config, const std::string& where);
nn::ModelSpec read_qwen3(const Json& config, const std::string& where);
void write_qwen2(Json& config, const nn::ModelSpec&);
void write_qwen3(Json& config, const nn::ModelSpec&);

}  // namespace thimble::models
