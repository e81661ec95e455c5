// RoPE's frequencies as transformers computes them (modeling_rope_utils): powers in f32, the llama3 blend of long and short waves.
#include "nn/spec.h"

#include <cmath>

namespace thimble::nn {

std::vector<float> inverse_frequencies(const RopeSpec& rope, int64_t head_dim) {
  std::vector<float> inv;
  for (int64_t i = 0; i < head_dim; i += 2) {
    float f = 1.0f / std::pow(float(rope.theta), float(i) / float(head_dim));
    switch (rope.kind) {
      case RopeSpec::Kind::plain: break;
      case RopeSpec::Kind::linear: f = float(f / rope.factor); break;
      case RopeSpec::Kind::llama3: {
        const double wave = 2 * M_PI / double(f), original = double(rope.original_positions);
        const double smooth = (original / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
        if (wave > original / rope.low_freq_factor) f = float(f / rope.factor);
        else if (wave >= original / rope.high_freq_factor) f = float((1 - smooth) * f / rope.factor + smooth * f);
        break;
      }
    }
    inv.push_back(f);
  }
  return inv;
}

}  // namespace thimble::nn
