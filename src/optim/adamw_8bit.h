// AdamW with 8-bit moments in blocks of 256 (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021), following
// bitsandbytes' CUDA kernels: two bytes an element instead of eight. Tensors under 4096 elements keep f32 moments.
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

constexpr int64_t state_block = 256;         // elements of one scale; a block never crosses tensors
constexpr int64_t least_8bit_count = 4096;  // smaller tensors keep f32 moments

void adamw_8bit_states(const Shape&, std::array<quant::Part, 4>& out, int& n);  // {m codes, v codes, m absmax, v absmax} or {m, v}
void adamw_8bit_zero(Stream&, std::span<const Update>);
void adamw_8bit_update(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);

}  // namespace thimble::optim
