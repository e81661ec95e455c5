// Rotary position embedding (Su et al. 2021) in the half-split layout of transformers: channel i turns with channel i + D/2.
// x (T, H, D) in place; positions (T) i32; inv_freq (P) f32, P <= D/2: radians per position. cos and sin are scaled by `attention_factor`.
// Where P < D/2 the first 2P channels turn, i with i + P, and the others stay as they are.
#pragma once
#include <array>
#include <initializer_list>

#include "device/stream.h"

namespace thimble::ops {

// One op turns one tensor or two (queries and keys), of one type and head dim.
void rope(Stream&, std::initializer_list<Tensor> xs, Tensor positions, Tensor inv_freq, float attention_factor = 1);
void rope_backward(Stream&, std::initializer_list<Tensor> dxs, Tensor positions, Tensor inv_freq, float attention_factor = 1);  // the inverse turn, in place

// The same of heads that are normed before, each on its own, as ops/rms_norm.h has it: one op on cuda.
struct HeadNorms {
  std::array<Tensor, 2> weight;  // (D) any float, by tensor
  float eps = 0, offset = 0;
};
constexpr int most_normed_channels = 512;  // of a head, where it is one op
void norm_and_rope(Stream&, std::initializer_list<Tensor> xs, const HeadNorms&, Tensor positions, Tensor inv_freq, float attention_factor = 1);

}  // namespace thimble::ops
