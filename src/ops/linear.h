// The linear layer on a stored weight: many tokens unpack into scratch and multiply; a few multiply the packed bytes directly.
#pragma once
#include "ops/matmul.h"
#include "quant/weight.h"

namespace thimble::ops {

// T tokens, K in, N out.   y (T, N) = x (T, K) . w^T + c; c as matmul's: y itself, another matrix, or null
void linear(Stream&, Tensor y, Tensor x, const quant::Weight& w, Tensor c = {});
// dx (T, K) = dy (T, N) . w + c
void linear_backward_input(Stream&, Tensor dx, Tensor dy, const quant::Weight& w, Tensor c = {});
// dw (N, K) f32 += dy^T . x
void linear_backward_weight(Stream&, Tensor dw, Tensor dy, Tensor x);

}  // namespace thimble::ops
