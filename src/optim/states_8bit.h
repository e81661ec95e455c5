// Moments of 8 bits in blocks of 256 (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021), as bitsandbytes packs them on CUDA: a byte for
// each, the largest magnitude of a block. Tensors under 4096 elements keep f32 moments. What the rules that have such moments share.
#pragma once
#include <bit>

#include "optim/optimizer.h"
#include "quant/dynamic8.h"

namespace thimble::optim {

constexpr int64_t state_block = 256;         // elements of one scale; a block never crosses tensors
constexpr int64_t least_8bit_count = 4096;  // smaller tensors keep f32 moments

inline bool packs(const Shape& param) { return param.count() >= least_8bit_count; }
inline int64_t state_blocks(const Shape& param) { return (param.count() + state_block - 1) / state_block; }

// Codes as before the first step: of states[0] those of the signed map, of states[1] of the unsigned one; all else 0.
void zero_8bit_states(Stream&, std::span<const Update>);

inline void decode(float* x, const uint8_t* codes, int64_t n, float absmax, const quant::DynamicMap& map) {
  const float* values = map.values().data();
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = values[codes[i]] * absmax;
}

// The code of each x / absmax that has the sign of x: where rounding crossed zero, the neighbour on x's side.
inline void encode_signed(uint8_t* codes, const float* x, int64_t n, float absmax) {
  const quant::DynamicMap& map = quant::signed_map();
  const int32_t zero = map.zero();
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const int32_t code = map.nearest(x[i] / absmax);
    const bool below = code < zero, negative = std::bit_cast<int32_t>(x[i]) < 0;
    const int32_t toward = x[i] > 0 ? 1 : -1;
    codes[i] = uint8_t(code + (below != negative ? toward : 0));
  }
}

inline void encode_unsigned(uint8_t* codes, const float* x, int64_t n, float absmax) {
  const quant::DynamicMap& map = quant::unsigned_map();
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) codes[i] = uint8_t(map.nearest(x[i] / absmax));
}

}  // namespace thimble::optim
