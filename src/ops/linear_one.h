// Which products of one token are one kernel on cuda with what stands around them: decided by the device's spec and shapes alone, so plan and run agree.
#pragma once
#include "ops/linear.h"

namespace thimble::ops {

constexpr int most_joined_columns = 4096;   // of an x that is joined in the kernel
constexpr int most_attending_heads = 1024;  // of attention in the kernel
// May all of the chain be one kernel?
bool linear_is_one(const DeviceSpec&, std::span<const Few> chain);
// Of a chain that may. partial: attention_few_partial (ops/attention_few.h) where attention is among it.
void linear_one_cuda(CudaContext&, std::span<const Few> chain, Tensor partial);

}  // namespace thimble::ops
