// How the maps are made, in the very roundings of the reference: boundaries as torch.linspace has them (f32, from both ends, one fused
// multiply-add each), then means, then powers of ten.
#include "quant/dynamic8.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"

namespace thimble::quant {
namespace {

float boundary(int i, int count) {
  const float step = (1.0f - 0.1f) / float(count - 1);
  return i < count / 2 ? std::fma(step, float(i), 0.1f) : std::fma(-step, float(count - 1 - i), 1.0f);
}

std::array<float, 256> make_values(bool with_negatives) {
  constexpr double powers[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1};
  std::vector<float> values{0.0f, 1.0f};
  for (int i = 0; i < 7; ++i) {
    const int count = (1 << (with_negatives ? i : i + 1)) + 1;
    for (int j = 0; j + 1 < count; ++j) {
      const float value = float(powers[i]) * ((boundary(j, count) + boundary(j + 1, count)) / 2.0f);
      values.push_back(value);
      if (with_negatives) values.push_back(-value);
    }
  }
  check(values.size() == 256, "a dynamic map has 256 values");
  std::sort(values.begin(), values.end());
  std::array<float, 256> sorted;
  std::copy(values.begin(), values.end(), sorted.begin());
  return sorted;
}

}  // namespace

DynamicMap::DynamicMap(Range range) : values_(make_values(range == Range::with_negatives)) {
  const bool with_negatives = range == Range::with_negatives;
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < 255; ++i) {
    const float middle = (values_[i] + values_[i + 1]) * 0.5f;
    thresholds_[i] = i % 2 == 0 ? middle : std::nextafter(middle, -infinity);  // a tie goes to the even code
  }
  thresholds_[255] = infinity;
  const auto code_of = [&](float x) { return int32_t(std::lower_bound(thresholds_.begin(), thresholds_.end(), x) - thresholds_.begin()); };
  zero_ = code_of(0.0f);

  magnitude_ = with_negatives ? 0x7fffffff : -1;
  shift_ = with_negatives ? 17 : 16;  // 2^6 buckets to the octave, 2^7: closer than the map's values in their widest decade
  first_ = std::bit_cast<int32_t>(0x1p-23f) >> shift_;
  side_ = (std::bit_cast<int32_t>(1.0f) >> shift_) - first_ + 1;
  other_side_ = with_negatives ? side_ : 0;
  check(side_ + other_side_ <= buckets, "the buckets of a dynamic map fit");
  lowest_code_.fill(0);
  for (int32_t b = 0; b < side_; ++b) {
    const float least = b == 0 ? 0.0f : std::bit_cast<float>((first_ + b) << shift_);
    const float most = b == side_ - 1 ? infinity : std::bit_cast<float>(((first_ + b + 1) << shift_) - 1);
    lowest_code_[size_t(b)] = code_of(least);
    check(code_of(most) - code_of(least) <= 1, "a bucket of a dynamic map holds at most one threshold");
    if (!with_negatives) continue;
    lowest_code_[size_t(side_ + b)] = code_of(-most);
    check(code_of(-least) - code_of(-most) <= 1, "a bucket of a dynamic map holds at most one threshold");
  }
}

const DynamicMap& signed_map() {
  static const DynamicMap map(DynamicMap::Range::with_negatives);
  return map;
}

const DynamicMap& unsigned_map() {
  static const DynamicMap map(DynamicMap::Range::positive);
  return map;
}

}  // namespace thimble::quant
