// The core that the others add to.
#include "models/llama.h"

#include "models/config.h"

namespace thimble::models {

nn::ModelSpec read_llama(const Json& c, const std::string& where) { return read_decoder(c, "llama", where, {}); }

void write_llama(Json& c, const nn::ModelSpec& m) {
  c["attention_bias"] = m.layers.front().qkv_bias;
  c["mlp_bias"] = m.layers.front().mlp_bias;
}

}  // namespace thimble::models
