// quantization_config: how a folder's files hold the layers' matrices, as bitsandbytes, DeepSeek and Qwen write it.
#pragma once
#include "base/json.h"
#include "nn/spec.h"

namespace thimble::models {

// Of a whole config; without quantization_config: plain. Throws Error (bad_input) naming the key, or a method that is not read.
nn::StoredAs read_stored(const Json& config, const std::string& where);
// What transformers with bitsandbytes reads back; format nf4, nf4_dq or int8. `dtype`: what it computes in, as torch spells it. `kept`: null
// there where it is empty, which keeps the head alone.
Json quantization_config(quant::FormatId, const std::string& dtype, const std::vector<std::string>& kept = {});

}  // namespace thimble::models
