// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) with f32 moments, as torch.optim.AdamW computes it.
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

void adamw_states(int64_t count, std::array<quant::Part, 4>& out, int& n);  // {m, v}
void adamw_zero(Stream&, std::span<const Update>);
void adamw_update(Stream&, std::span<const Update>, const Tensor& scalars, const AdamW&);

}  // namespace thimble::optim
