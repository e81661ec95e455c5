// What a step draws: the masks of dropout (Srivastava et al. 2014) and NEFTune's noise (Jain et al. 2023). Every number is a function of where it
// stands, so recompute, windows, threads and resumed runs draw it again, and nothing is kept of it:
//   philox(seed, step << 32 | place, token * ceil(C / 4) + channel / 4)[channel % 4], base/philox.h, as 24 bits in [0, 1).
// `token` counts from the step's first, so that the cut into micro-batches changes nothing either. tests/golden/drawn.py is the same in NumPy.
//     T tokens, C channels
#pragma once
#include "device/stream.h"

namespace thimble::ops {

// key (4) i32 on the device: the seed's low and high half, the step, the number of the tensor's first token in the step.
struct Drawn {
  Tensor key;
  uint32_t place = 0;  // which of the step's tensors: no two share a place
};

// y (T, C) = x / (1 - share) where what is drawn is at least `share`, else 0; + c. Overwritten; y may be x or c, c may be null.
// The gradient is the same of dy.
void dropout(Stream&, Tensor y, Tensor x, float share, const Drawn&, Tensor c = {});
// y (T, C) += size * (2 u - 1), u drawn
void add_noise(Stream&, Tensor y, float size, const Drawn&);

}  // namespace thimble::ops
