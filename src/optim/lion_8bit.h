// Lion (optim/lion.h) with a moment of 8 bits (optim/states_8bit.h), as bitsandbytes' Lion8bit: one byte an element instead of four.
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

void lion_8bit_states(const Shape&, std::array<quant::Part, 4>& out, int& n);  // {m codes, m absmax} or {m}
void lion_8bit_update(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);

}  // namespace thimble::optim
