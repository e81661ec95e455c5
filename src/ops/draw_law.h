// The numbers of a draw (draw.h): the same to the bit on the host and in a kernel, since each operation is rounded once wherever it runs.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "device/both.h"

namespace thimble::ops {

constexpr int64_t most_tokens = 1 << 19;  // whose weights' sum fits 64 bits

// 2^44 e^(below / temperature), to six digits, rounded down; below <= 0, scale_of(temperature).
inline float scale_of(double temperature) { return float(std::min(1.4426950408889634 / temperature, 1e38)); }
THIMBLE_BOTH inline uint64_t weight_of(float below, float scale) {
  if (!(below * scale > -45)) return 0;
  constexpr float whole = 12582912;  // 1.5 * 2^23: what is added to it is rounded to a whole number
  const float n = fmaf(below, scale, whole) - whole, f = fmaf(below, scale, -n);
  float power = 1.52527336e-05f;  // 2^f: ln(2)^k / k!
  power = fmaf(power, f, 0.000154035297f);
  power = fmaf(power, f, 0.00133335579f);
  power = fmaf(power, f, 0.00961812865f);
  power = fmaf(power, f, 0.0555041097f);
  power = fmaf(power, f, 0.240226507f);
  power = fmaf(power, f, 0.693147182f);
  power = fmaf(power, f, 1);
  return uint64_t(power * 0x1p44f) >> int(-n);
}
// What a share of a sum is; the likeliest token always belongs to it.
THIMBLE_BOTH inline uint64_t enough_of(uint64_t sum, double share) {
  const auto x = uint64_t(share * double(sum));
  return x > sum ? sum : x < 1 ? 1 : x;
}
THIMBLE_BOTH inline uint64_t high_product(uint64_t a, uint64_t b) { return uint64_t(static_cast<unsigned __int128>(a) * b >> 64); }
// How far below the best a score may lie; min_p 0: anywhere.
inline double edge_of(double temperature, double min_p) { return temperature * std::log(min_p); }

}  // namespace thimble::ops
