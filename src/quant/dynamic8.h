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
  const std::array<float, 256>& thresholds() const { return thresholds_; }  // code > i exactly where x > thresholds()[i]
  float operator[](int code) const { return values_[size_t(code)]; }
  int zero() const { return zero_; }  // the code of 0

  // The code nearest to x, at a tie the even one (where bitsandbytes' bisection ends); 0 for NaN. On the positive map negative x gives 0.
  // A bucket by the upper bits of x, then one comparison: no bucket holds more than one threshold, which the constructor checks.
  int nearest(float x) const {
    const auto bits = std::bit_cast<int32_t>(x);
    int32_t bucket = ((bits & magnitude_) >> shift_) - first_;
    bucket = bucket < 0 ? 0 : bucket;
    bucket = bucket < side_ ? bucket : side_ - 1;
    bucket += (bits >> 31) & other_side_;
    const int32_t code = lowest_code_[size_t(bucket)];
    const int32_t above = x > thresholds_[size_t(code)], sane = x == x;
    return (code + above) & -sane;  // arithmetic instead of a choice, so that loops over many x are vectorised
  }

 private:
  static constexpr int64_t buckets = 2948;
  alignas(64) std::array<float, 256> values_;  // sixteen of them are a line of the cache
  std::array<float, 256> thresholds_;
  std::array<int32_t, buckets> lowest_code_;
  int32_t magnitude_, shift_;         // the bits that say where |x| lies (of a positive map: all), and how many of them a bucket ignores
  int32_t first_, side_, other_side_;  // the first bucket's upper bits; buckets of one sign; where those of the negatives begin, or 0
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
