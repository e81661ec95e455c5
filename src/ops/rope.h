// Rotary position embedding (Su et al. 2021) in the half-split layout of transformers: channel i turns with channel i + D/2.
// x (T, H, D) in place; positions (T) i32; inv_freq (D/2) f32: radians per position. cos and sin are scaled by `attention_factor`.
#pragma once
#include "device/stream.h"

namespace thimble::ops {

void rope(Stream&, Tensor x, Tensor positions, Tensor inv_freq, float attention_factor = 1);
void rope_backward(Stream&, Tensor dx, Tensor positions, Tensor inv_freq, float attention_factor = 1);  // the inverse turn, in place

}  // namespace thimble::ops
