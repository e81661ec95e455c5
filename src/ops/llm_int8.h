// The product of many tokens with an INT8 weight (Dettmers et al., "LLM.int8()", 2022; the arithmetic is bitsandbytes' MatMul8bitLt): rows of
// x are rounded to 8-bit codes too, but for the columns that hold a value of 6 or more, which stay in x's own type.
// The sums of codes are exact, in i32, on a cpu with VNNI; elsewhere they are made in the type of x: every code is exact there, and sums are f32 (exact
// below 2^24).
#pragma once
#include "quant/weight.h"

namespace thimble::ops {

constexpr float outlier_threshold = 6;

// Columns of K that may stay out of the codes, so that their memory is known beforehand. Where more columns reach the threshold it is doubled
// until no more do: the largest stay out.
constexpr int64_t outlier_cap(int64_t columns) { return std::min(columns, std::max<int64_t>(16, (columns / 16 + 15) / 16 * 16)); }

// y (T, N) = x (T, K) . w^T + c; x f32, bf16 or f16, w of format int8; c: (T, N), y itself, or null.
void llm_int8(Stream&, Tensor y, Tensor x, const quant::Weight& w, Tensor c = {});

}  // namespace thimble::ops
