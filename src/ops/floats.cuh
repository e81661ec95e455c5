// Values as they lie in memory, f32 or bf16, read as floats: weights of norms and biases, whose type no kernel is compiled for.
#pragma once
#include "device/kernel.cuh"

namespace thimble::ops {

struct Floats {
  const void* data = nullptr;  // null: there are none
  bool is_bf16 = false;
  Floats() = default;
  explicit Floats(const Tensor& t) : data(t.data), is_bf16(t.dtype == DType::bf16) {}
  __device__ explicit operator bool() const { return data; }
  __device__ float operator[](int i) const { return is_bf16 ? float(static_cast<const __nv_bfloat16*>(data)[i]) : static_cast<const float*>(data)[i]; }
};

}  // namespace thimble::ops
