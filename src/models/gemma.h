// Gemma2ForCausalLM and Gemma3ForCausalLM (text): norms about 1 + w before and after, GELU gates, windows in some layers, scaled embeddings;
// Gemma 2 caps scores and logits, Gemma 3 norms heads and turns local layers by a base of their own (transformers, modeling_gemma2, _gemma3).
#pragma once
#include "models/registry.h"

namespace thimble::models {

nn::ModelSpec read_gemma2(const Json& config, const std::string& where);
nn::ModelSpec read_gemma3(const Json& config, const std::string& where);
void write_gemma2(Json& config, const nn::ModelSpec&);
void write_gemma3(Json& config, const nn::ModelSpec&);

}  // namespace thimble::models
