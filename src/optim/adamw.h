// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) as torch.optim.AdamW computes it, with moments in f32, or rounded to
// bf16 between steps.
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

void adamw_states(const Shape&, std::array<quant::Part, 4>& out, int& n);       // {m, v}
void adamw_bf16_states(const Shape&, std::array<quant::Part, 4>& out, int& n);  // {m, v}; of small tensors f32
void adamw_update(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);

}  // namespace thimble::optim
