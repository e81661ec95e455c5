// Lion (Chen et al., "Symbolic discovery of optimization algorithms", 2023), with decoupled decay:
// p = p (1 - lr wd) - lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g
#pragma once
#include "optim/optimizer.h"

namespace thimble::optim {

void lion_states(const Shape&, std::array<quant::Part, 4>& out, int& n);  // {m} f32
void lion_update(Stream&, std::span<const Update>, const Tensor& scalars, const Hyper&);

// The values of a step of one tensor, and the step of its elements. For lion_8bit.cpp too.
struct LionStep {
  float rate, scale, decay, beta1, beta2;
  LionStep(const Update& u, const float* scalars, const Hyper& hyper)
      : rate(scalars[learning_rate] * u.rate), scale(scalars[grad_scale]), decay(float(1.0 - double(rate) * double(u.weight_decay))), beta1(hyper.beta1), beta2(hyper.beta2) {}
  void take(float* p, const float* g, float* m, int64_t n) const {
    const float rest1 = 1.0f - beta1, rest2 = 1.0f - beta2;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float gradient = g[i] * scale, way = beta1 * m[i] + rest1 * gradient;
      p[i] = p[i] * decay - rate * (way > 0 ? 1.0f : way < 0 ? -1.0f : 0.0f);
      m[i] = beta2 * m[i] + rest2 * gradient;
    }
  }
};

}  // namespace thimble::optim
