// Low-rank adapters (Hu et al. 2021, PEFT's arrangement): y += s * (x . A^T) . B^T.     T tokens, K in, N out, R rank
// A (R, K), B (N, R) any float type, their gradients f32; x, y, xa are of the activations' type.
#pragma once
#include "ops/matmul.h"

namespace thimble::ops {

struct Lora {
  Tensor a, b;           // (R, K), (N, R); null where a matrix has no adapter
  float scale = 1;       // alpha / R, or alpha / sqrt(R)
  explicit operator bool() const { return bool(a); }
};
struct LoraGrad { Tensor da, db; };  // as a, b; f32, added to

// xa (T, R) = x . A^T, overwritten: what backward wants back
void lora_down(Stream&, Tensor xa, Tensor x, const Lora&);
// y (T, N) = or += s * xa . B^T
void lora_up(Stream&, Tensor y, Tensor xa, const Lora&, bool add = true);
// dA, dB added to; dx (T, K) overwritten or added to (null: not wanted)
void lora_backward(Stream&, Tensor dx, const LoraGrad&, Tensor dy, Tensor x, Tensor xa, const Lora&, bool add = true);

}  // namespace thimble::ops
