// AdamW with moments of 8 bits (optim/states_8bit.h), following bitsandbytes' CUDA kernels: two bytes an element instead of eight.
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

void adamw_8bit_states(const Shape&, std::array<quant::Part, 4>& out, int& n);  // {m codes, v codes, m absmax, v absmax} or {m, v}
void adamw_8bit_update(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);

}  // namespace thimble::optim
