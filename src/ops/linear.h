// The linear layer on a stored weight: many tokens unpack into scratch and multiply; a few multiply the packed bytes directly.
#pragma once
#include "ops/matmul.h"
#include "quant/weight.h"

namespace thimble::ops {

// T tokens, K in, N out.   y (T, N) = x (T, K) . w^T, overwritten or (add) added to
void linear(Stream&, Tensor y, Tensor x, const quant::Weight& w, bool add = false);
// dx (T, K) = dy (T, N) . w, overwritten or (add) added to
void linear_backward_input(Stream&, Tensor dx, Tensor dy, const quant::Weight& w, bool add);
// dw (N, K) f32 += dy^T . x
void linear_backward_weight(Stream&, Tensor dw, Tensor dy, Tensor x);

}  // namespace thimble::ops
