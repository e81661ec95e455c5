// SGD as torch.optim.SGD computes it: decay joins the gradient; with momentum (Polyak 1964) b = momentum b + g, p -= lr b.
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

void sgd_states(const Shape&, std::array<quant::Part, 4>& out, int& n);           // none
void sgd_momentum_states(const Shape&, std::array<quant::Part, 4>& out, int& n);  // {momentum} f32
void sgd_update(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);

}  // namespace thimble::optim
