// Dynamic loss scaling (Micikevicius et al. 2018, Mixed Precision Training) where activations are f16: gradients of small numbers would vanish there,
// so the loss is multiplied by a power of two, and what comes of it divided again. As torch.amp.GradScaler's defaults: half as much after a step whose
// gradients are not finite, which changes nothing; twice as much after 2,000 in a row that are.
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace thimble::train {

struct LossScale {
  double scale = 1;
  int64_t good = 0, skipped = 0;  // finite steps since it changed; steps that were not, of all

  static LossScale of(DType compute) { return {.scale = compute == DType::f16 ? 65536.0 : 1.0}; }
  // As a run that computes in `compute` goes on with it, whatever type the run before had.
  LossScale in(DType compute) const {
    const bool was_scaled = scale != 1 || skipped > 0, goes_on = (compute == DType::f16) == was_scaled;
    return goes_on ? *this : LossScale{.scale = of(compute).scale, .skipped = skipped};
  }
  bool exhausted() const { return scale < 1; }
  void after(bool finite) {
    if (!finite) scale /= 2, good = 0, ++skipped;
    else if (++good == 2000) scale *= 2, good = 0;
  }
  bool operator==(const LossScale&) const = default;
};

}  // namespace thimble::train
