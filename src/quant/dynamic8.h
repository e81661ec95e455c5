// The dynamic 8-bit maps (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021): 256 numbers in [-1, 1] or [0, 1], dense
// near 0. Equal to the bit to bitsandbytes' create_dynamic_map, and so is the choice of the nearest, ties included.
#pragma once
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace thimble::quant {

class DynamicMap {
 public:
  enum class Range { with_negatives, positive };
  explicit DynamicMap(Range);

  const std::array<float, 256>& values() const { return values_; }
  float operator[](int code) const { return values_[size_t(code)]; }
  int zero() const { return zero_; }  // the code of 0

  // The code nearest to x, at a tie the even one (where bitsandbytes' bisection ends); 0 for NaN. On the positive map negative x gives 0.
  // A bucket by the upper bits of x, then one comparison: no bucket holds more than one threshold, which the constructor checks.
  int nearest(float x) const {
    const auto bits = std::bit_cast<int32_t>(x);
    const int32_t magnitude = has_negatives_ ? bits & 0x7fffffff : bits;
    int32_t bucket = (magnitude >> shift_) - first_;
    bucket = bucket < 0 ? 0 : bucket;
    bucket = bucket < side_ ? bucket : side_ - 1;
    bucket += bits < 0 && has_negatives_ ? side_ : 0;
    const int32_t code = lowest_code_[size_t(bucket)];
    const int32_t chosen = code + (x > thresholds_[size_t(code)] ? 1 : 0);
    return x == x ? chosen : 0;
  }

 private:
  static constexpr int64_t buckets = 2948;
  std::array<float, 256> values_;
  std::array<float, 256> thresholds_;  // code > i exactly where x > thresholds_[i]
  std::array<int32_t, buckets> lowest_code_;
  bool has_negatives_;
  int32_t shift_, first_, side_;  // bits below a bucket; the first bucket's upper bits; buckets of one sign
  int zero_;
};

const DynamicMap& signed_map();
const DynamicMap& unsigned_map();

// max |x|, NaN counting as 0 (as CUDA's fmaxf has it).
inline float largest_magnitude(const float* x, int64_t n) {
  int32_t most = 0;  // of the bits: non-negative floats sort as their bits do
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < n; ++i) {
    const int32_t bits = std::bit_cast<int32_t>(x[i]) & 0x7fffffff;
    const int32_t sane = bits > 0x7f800000 ? 0 : bits;
    most = most > sane ? most : sane;
  }
  return std::bit_cast<float>(most);
}

}  // namespace thimble::quant
