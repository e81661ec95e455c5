// Rotary position embedding (Su et al. 2021) in the half-split layout of transformers: channel i turns with channel i + D/2.
// x (T, H, D) in place; positions (T) i32; inv_freq (P) f32, P <= D/2: radians per position. cos and sin are scaled by `attention_factor`.
// Where P < D/2 the first 2P channels turn, i with i + P, and the others stay as they are.
#pragma once
#include <initializer_list>

#include "device/stream.h"

namespace thimble::ops {

// One op turns one tensor or two (queries and keys), of one type and head dim.
void rope(Stream&, std::initializer_list<Tensor> xs, Tensor positions, Tensor inv_freq, float attention_factor = 1);
void rope_backward(Stream&, std::initializer_list<Tensor> dxs, Tensor positions, Tensor inv_freq, float attention_factor = 1);  // the inverse turn, in place

}  // namespace thimble::ops
