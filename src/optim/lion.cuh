// Lion's step in a kernel, of moments in f32 and in 8 bits.
#pragma once
#include "optim/tensors.cuh"

namespace thimble::optim {

struct DeviceLion {
  float rate, scale, decay, beta1, beta2;
  __device__ DeviceLion(const DeviceUpdate& u, const float* now, const Hyper& hyper)
      : rate(now[learning_rate] * u.rate), scale(now[grad_scale]), decay(float(1.0 - double(rate) * double(u.weight_decay))), beta1(hyper.beta1), beta2(hyper.beta2) {}
  // The parameter after the step; m is overwritten.
  __device__ float stepped(float p, float g, float& m) const {
    const float gradient = g * scale, way = beta1 * m + (1.0f - beta1) * gradient;
    m = beta2 * m + (1.0f - beta2) * gradient;
    return p * decay - rate * (way > 0 ? 1.0f : way < 0 ? -1.0f : 0.0f);
  }
  __device__ void take(const DeviceUpdate& u, int64_t group, const float* now, float* m) const {
    change_values(u, group, now, [&](int64_t i, float p, float g) { return stepped(p, g, m[i]); });
  }
};

}  // namespace thimble::optim
