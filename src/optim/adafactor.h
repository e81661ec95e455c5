// Adafactor (Shazeer and Stern, "Adaptive learning rates with sublinear memory cost", 2018) as transformers' Trainer runs it: the step's learning
// rate, no first moment, updates clipped to a root mean square of 1. Of a matrix (N, K) the second moments are N + K numbers, else as many as it has.
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

void adafactor_states(const Shape&, std::array<quant::Part, 4>& out, int& n);  // {row (N), column (K)} or {v}, f32
void adafactor_update(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);

}  // namespace thimble::optim
