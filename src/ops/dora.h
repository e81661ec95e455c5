// DoRA (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024) as PEFT computes it: y = m / |w + s B A| * x . (w + s B A)^T, where the
// norms of rows count as constants in backward.     T tokens, K in, N out, R rank
// With dropout PEFT leaves the base's own product whole: y = x . w^T - d . w^T + m / |w + s B A| * d . (w + s B A)^T, d what is left of x (nn/project.cpp).
// |w + s B A|^2 = |w|^2 + 2 s B . (w A^T) + s^2 B (A A^T) B^T row by row: |w|^2 is measured once, and no matrix is ever whole in dense form for it.
#pragma once
#include "quant/weight.h"

namespace thimble::ops {

// squares (N) f32 = the squares of each row of w, summed; overwritten. A packed w is unpacked to `type` in scratch.
void row_squares(Stream&, Tensor squares, const quant::Weight& w, DType type);
// norm (N) f32 = |w + scale * b . a|, row by row, overwritten; a (R, K), b (N, R) of the activations' type
void dora_norm(Stream&, Tensor norm, Tensor squares, const quant::Weight& w, Tensor a, Tensor b, float scale);
// y (T, N) = x * magnitude / norm, overwritten; y may be x. Also the gradient of x from that of y.
void dora_scale(Stream&, Tensor y, Tensor x, Tensor magnitude, Tensor norm);
// d_magnitude (N) f32 += the sum of dy * z / norm over the tokens; z (T, N) is what was scaled, and is used up
void dora_magnitude_backward(Stream&, Tensor d_magnitude, Tensor z, Tensor dy, Tensor norm);

}  // namespace thimble::ops
