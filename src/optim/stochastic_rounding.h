// How a parameter in bf16 takes an update that was computed in f32: rounded up or down to a neighbour, to each with the share that the other's distance is
// of the gap (Gupta et al., "Deep learning with limited numerical precision", 2015). The mean of many roundings is the value, so that steps far below half
// a gap, which rounding to nearest loses every time, arrive in the mean. What is representable stays as it is; NaN stays NaN.
//   16 bits that are drawn are added to the 16 that bf16 does not have, whose carry rounds up. Element e of a tensor has, with k = e % 2048 / 256, the
//   low (even k) or high half of philox(seed, step << 32 | place, e / 2048 * 256 + e % 256)[k / 2], base/philox.h: one draw of four words serves eight
//   elements that one thread of a card walks over, and a row of a processor's vectors.
// The same bits on every device, by any number of threads, in a run that goes on. tests/golden/rounding.py is the same in NumPy.
#pragma once
#include "base/dtype.h"

namespace thimble::optim {

constexpr int64_t draw_group = 2048;                // elements that share draws, eight to one
constexpr int64_t draw_stride = draw_group / 8;     // between these eight

// Of one tensor in one step.
struct Draws16 {
  uint64_t seed = 0;
  uint32_t step = 0, place = 0;
};

// to[i] = x[i] rounded, the i-th from element `first` of its tensor, a multiple of draw_group; n at most that.
void round_stochastically(bf16* to, const float* x, int64_t first, int64_t n, const Draws16&);

}  // namespace thimble::optim
