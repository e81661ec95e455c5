// Which products of one token are one kernel on cuda with what stands around them: decided by the device's spec and shapes alone, so plan and run agree.
#pragma once
#include "ops/linear.h"

namespace thimble::ops {

// Of all that linear_few is asked for, or of its products with the norm and the biases.
bool linear_is_one(const DeviceSpec&, const Tensor& x, std::span<const quant::FewProduct>, const Norm&, const After&);
void linear_one_cuda(CudaContext&, Tensor x, std::span<const quant::FewProduct>, const Norm&, const After&);

}  // namespace thimble::ops
