// See states_8bit.h: the same codes in a kernel, a block of states to a block of as many threads.
#pragma once
#include "optim/states_8bit.h"
#include "optim/tensors.cuh"
#include "quant/dynamic8.cuh"

namespace thimble::optim {

static_assert(threads == state_block, "a row of values is a state block");

// The maps where all threads of the block find them soon.
__device__ __forceinline__ const quant::DeviceMaps& near_maps(const quant::DeviceMaps* maps) {
  __shared__ quant::DeviceMaps near;
  static_assert(sizeof near == 4 * threads * sizeof(float));
#pragma unroll
  for (int i = 0; i < 4; ++i) reinterpret_cast<float*>(&near)[i * threads + threadIdx.x] = reinterpret_cast<const float*>(maps)[i * threads + threadIdx.x];
  __syncthreads();
  return near;
}

__device__ __forceinline__ uint8_t signed_code(const quant::DeviceMaps& maps, float x, float absmax) {
  int code = quant::nearest_code(maps.signed_thresholds, x / absmax);
  if ((maps.signed_values[code] < 0) != (x < 0 || (x == 0 && signbit(x)))) code += x > 0 ? 1 : -1;
  return uint8_t(code);
}
__device__ __forceinline__ uint8_t unsigned_code(const quant::DeviceMaps& maps, float x, float absmax) { return uint8_t(quant::nearest_code(maps.unsigned_thresholds, x / absmax)); }

}  // namespace thimble::optim
