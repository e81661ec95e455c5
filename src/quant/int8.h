// INT8 weights in the bytes of bitsandbytes' LLM.int8 (Dettmers et al., "LLM.int8()", 2022): 8-bit codes, each row scaled by its largest
// magnitude. The product of many tokens, with its outlier columns, is ops/llm_int8.h.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>

#include "quant/weight.h"

namespace thimble::quant {

constexpr float int8_top = 127;              // the code of a row's largest magnitude
constexpr float int8_step = 1.0f / int8_top;

// The row of the table. Parts: codes i8 (N, K), absmax f32 (N): w = code * absmax / 127.
// Packing takes the numbers through f16, as the reference does (beyond its range: its largest number), so that the codes are the reference's.
void int8_parts(const Shape& matrix, DType dense, std::array<Part, 4>& out, int& count);
void int8_pack(Stream&, const Weight& out, const Numbers&);
void int8_unpack(Stream&, Tensor dense, const Weight&);
void int8_multiply_few(Stream&, Tensor x, std::span<const FewProduct>);
void int8_decode(float* out, const Weight&, int64_t first, int64_t n);

// x through f16, without infinities: to the nearest of ten bits of mantissa, or of steps of 2^-24 where f16 has no normal numbers. Loops over it are
// made of vectors, which GCC does not make of conversions.
inline float as_f16(float x) {
  constexpr float most = 65504, least_normal = 0x1p-14f;
  const float a = std::min(std::abs(x), most);
  const auto bits = std::bit_cast<uint32_t>(a);
  const auto normal = std::bit_cast<float>((bits + 0xfff + (bits >> 13 & 1)) & ~uint32_t{0x1fff});
  return std::copysign(a < least_normal ? (a + 0.5f) - 0.5f : normal, x);
}

}  // namespace thimble::quant
