// The dynamic maps on cuda: values and thresholds in the device's constant data, copied there once for each device.
#pragma once
#include "device/kernel.cuh"
#include "quant/dynamic8.h"

namespace thimble::quant {

struct DeviceMaps {
  float signed_values[256], signed_thresholds[256], unsigned_values[256], unsigned_thresholds[256];
};
const DeviceMaps* device_maps();  // of the current device, for kernels

// The code nearest to x: how many thresholds lie below it; 0 for NaN. Eight comparisons.
__device__ __forceinline__ int nearest_code(const float* thresholds, float x) {
  int code = 0;
#pragma unroll
  for (int step = 128; step > 0; step /= 2)
    if (x > thresholds[code + step - 1]) code += step;
  return code;
}

// |x|, NaN counting as 0.
__device__ __forceinline__ float magnitude(float x) { return isnan(x) ? 0.0f : fabsf(x); }

}  // namespace thimble::quant
