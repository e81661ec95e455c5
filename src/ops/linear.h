// The linear layer on a stored weight: many tokens unpack into scratch and multiply; where text is generated, a few multiply the packed bytes
// directly, whose sums are added in another order.
// INT8 weights multiply many tokens as LLM.int8 does (ops/llm_int8.h); their backward is that of the unpacked matrix, as the reference's.
#pragma once
#include "ops/matmul.h"
#include "quant/weight.h"

namespace thimble::ops {

// T tokens, K in, N out.   y (T, N) = x (T, K) . w^T + c; c as matmul's: y itself, another matrix, or null
void linear(Stream&, Tensor y, Tensor x, const quant::Weight& w, Tensor c = {});
// The same for matrices that read one x; by their format's product of few tokens where T is at most its few_tokens. Those that lie on_processor are
// multiplied there, where T must be so few: x and c cross the link and y comes back, and the host waits.
void linear_few(Stream&, Tensor x, std::span<const quant::FewProduct>);
// dx (T, K) = dy (T, N) . w + c
void linear_backward_input(Stream&, Tensor dx, Tensor dy, const quant::Weight& w, Tensor c = {});
// dw (N, K) f32 += dy^T . x
void linear_backward_weight(Stream&, Tensor dw, Tensor dy, Tensor x);

}  // namespace thimble::ops
