// NF4 (Dettmers et al., "QLoRA", 2023) in the bytes of bitsandbytes: 4-bit codes for blocks of 64 weights, each scaled by its largest
// magnitude; with double quantisation (nf4_dq) the scales are 8-bit themselves: 4.127 bits a weight instead of 4.5.
#pragma once
#include "quant/weight.h"

namespace thimble::quant {

constexpr int64_t nf4_block = 64;      // weights of one scale, in the flat order of the matrix; blocks may cross rows
constexpr int64_t nested_block = 256;  // scales of one nested scale
constexpr int64_t nf4_blocks(int64_t count) { return (count + nf4_block - 1) / nf4_block; }
constexpr int64_t nested_blocks(int64_t count) { return (nf4_blocks(count) + nested_block - 1) / nested_block; }

// The code book: quantiles of a normal distribution, with an exact 0 and both ends (bitsandbytes' constants, to the bit).
inline constexpr std::array<float, 16> nf4_values{
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// The same as bf16 has them.
inline const std::array<float, 16>& nf4_values_bf16() {
  static const auto values = [] {
    auto rounded = nf4_values;
    for (float& v : rounded) v = float(bf16(v));
    return rounded;
  }();
  return values;
}

// code > i exactly where x / scale > nf4_thresholds[i]
inline constexpr std::array<float, 15> nf4_thresholds{
    -0.8480964004993439f, -0.6106329262256622f, -0.4599952697753906f, -0.33967943489551544f, -0.23460740596055984f,
    -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f, 0.1202552504837513f, 0.2035212516784668f,
    0.2920137718319893f, 0.3893125355243683f, 0.5016634166240692f, 0.6427869200706482f, 0.8614784181118011f};

// The rows of the table.
void nf4_parts(const Shape& matrix, DType dense, std::array<Part, 4>& out, int& count);
void nf4_dq_parts(const Shape& matrix, DType dense, std::array<Part, 4>& out, int& count);
void nf4_pack(Stream&, const Weight& out, const Numbers&);
void nf4_dq_pack(Stream&, const Weight& out, const Numbers&);
void nf4_unpack(Stream&, Tensor dense, const Weight&);              // both formats
void nf4_multiply_few(Stream&, Tensor x, std::span<const FewProduct>);  // both formats
void nf4_decode(float* out, const Weight&, int64_t first, int64_t n);  // both formats

// The steps of packing. codes u8 ((n + 1) / 2), the even weight in the high half; absmax f32 (blocks); dense of n weights; overwritten.
void nf4_quantize(Stream&, Tensor codes, Tensor absmax, Tensor dense);
// offset (1) f32 = mean of absmax, the same for any thread count. bitsandbytes sums on CUDA in another order: its last bit may differ.
void nf4_offset(Stream&, Tensor offset, Tensor absmax);
// Scales to 8 bits around a given offset: codes u8 (blocks), nested_absmax f32 (nested blocks), overwritten.
void nf4_nest(Stream&, Tensor codes, Tensor nested_absmax, Tensor absmax, Tensor offset);

}  // namespace thimble::quant
