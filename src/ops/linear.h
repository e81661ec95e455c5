// The linear layer on a stored weight: many tokens unpack into scratch and multiply; where text is generated, a few multiply the packed bytes
// directly, whose sums are added in another order.
// INT8 weights multiply many tokens as LLM.int8 does (ops/llm_int8.h); their backward is that of the unpacked matrix, as the reference's.
#pragma once
#include "ops/attention.h"
#include "ops/matmul.h"
#include "ops/rope.h"
#include "ops/swiglu.h"
#include "quant/weight.h"

namespace thimble::ops {

// T tokens, K in, N out.   y (T, N) = x (T, K) . w^T + c; c as matmul's: y itself, another matrix, or null
void linear(Stream&, Tensor y, Tensor x, const quant::Weight& w, Tensor c = {});
// What stands before and after products of a few tokens, each where it is not null: in generation it is most of a layer's ops, and little work.
struct Norm {                            // x / rms(x) * (weight + offset), as ops/rms_norm.h has it
  Tensor weight;                         // (K) any float
  float eps = 0, offset = 0;
  explicit operator bool() const { return bool(weight); }
};
struct Join {                            // x, made first: residual + norm(part), as ops/rms_norm.h has it
  Tensor part, residual;                 // (T, K)
  Norm norm{};
  explicit operator bool() const { return bool(part); }
};
struct Turn {                            // RoPE of the first two products, queries and keys, as ops/rope.h has it
  Tensor positions, inv_freq;
  float factor = 1;
  int64_t head_dim = 0;
  explicit operator bool() const { return bool(positions); }
};
struct After {
  std::array<Tensor, quant::most_few_products> bias{};  // (N) any float, by product
  Turn turn{};
  Tensor gated{};                        // (T, N) = act(y of the first) * y of the second, which are scratch then
  Activation activation = Activation::silu;
};
struct Attend {                          // as ops/attention.h has it, its y a view of x (T, H D)
  Tensor q, keys, values;
  AttentionShape shape{};
  HeadNorms norms{};                     // where heads are normed: q is before its norm and turn, and the last key, of `last` (1, K D), is yet to come to keys
  Turn turn{};
  Tensor last{};
  explicit operator bool() const { return bool(q); }
};
// Products of a few tokens that read one x, and what stands around them; with `attend` attention makes x first.
struct Few { Tensor x; std::span<const quant::FewProduct> products; Norm norm{}; After after{}; Join join{}; Attend attend{}; };
constexpr int most_links = 4;
// A chain of up to most_links such, each of which may read what those before it wrote; by their format's product of few tokens where T is at most
// most_few_tokens, and one token's on cuda in one kernel, or some, where there is such a one. Matrices that lie on_processor are multiplied there, where T must be so
// few: x and c cross the link and y comes back, and the host waits.
void linear_few(Stream&, std::span<const Few> chain);
inline void linear_few(Stream& s, Tensor x, std::span<const quant::FewProduct> products, const Norm& norm = {}, const After& after = {}) {
  linear_few(s, std::array{Few{x, products, norm, after}});
}
// What comes after such products, on its own.
void finish_few(Stream&, std::span<const quant::FewProduct>, const After&);
// dx (T, K) = dy (T, N) . w + c
void linear_backward_input(Stream&, Tensor dx, Tensor dy, const quant::Weight& w, Tensor c = {});
// dw (N, K) f32 += dy^T . x
void linear_backward_weight(Stream&, Tensor dw, Tensor dy, Tensor x);

}  // namespace thimble::ops
