// Lion (Chen et al., "Symbolic discovery of optimization algorithms", 2023), with decoupled decay:
// p = p (1 - lr wd) - lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

void lion_states(const Shape&, std::array<quant::Part, 4>& out, int& n);  // {m} f32
void lion_update(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);

}  // namespace thimble::optim
