// Low-rank adapters (Hu et al. 2021, PEFT's arrangement): y += s * (x . A^T) . B^T.     T tokens, K in, N out, R rank
// Matrices that read the same x have their A stacked, so that the products that read x run once for all of them: A (n R, K). What they
// leave, xa = A . x^T, is (n R, T): the part of each adapter is R whole rows. B is (N, R), an adapter each.
// A, B of any float type, their gradients f32; x, y, xa are of the activations' type.
#pragma once
#include "ops/matmul.h"

namespace thimble::ops {

// xa (n R, T) = A . x^T, overwritten: what backward wants back
void lora_down(Stream&, Tensor xa, Tensor x, Tensor a);
// y (T, N) = s * xa^T . B^T + c; xa (R, T), c as matmul's
void lora_up(Stream&, Tensor y, Tensor xa, Tensor b, float scale, Tensor c = {});
// dxa (R, T) = s * B^T . dy^T, overwritten, or added to where several products read xa; dB (N, R) added to
void lora_up_backward(Stream&, Tensor dxa, Tensor db, Tensor dy, Tensor xa, Tensor b, float scale, bool adds = false);
// dA (n R, K) added to; dx (T, K) = dxa^T . A, overwritten (null: not wanted)
void lora_down_backward(Stream&, Tensor dx, Tensor da, Tensor dxa, Tensor x, Tensor a);

}  // namespace thimble::ops
