// Which products of one token are one kernel on cuda with what stands around them: decided by the device's spec and shapes alone, so plan and run agree.
#pragma once
#include "ops/linear.h"

namespace thimble::ops {

constexpr int most_normed_columns = 4096;  // of an x that is normed in the kernel
// May all of the chain be one kernel?
bool linear_is_one(const DeviceSpec&, std::span<const Few> chain);
// Of a chain that may.
void linear_one_cuda(CudaContext&, std::span<const Few> chain);

}  // namespace thimble::ops
