// p *= 1 - lr wd; m += (1 - b1) (g - m); v = b2 v + (1 - b2) g^2; p -= lr / bias1 * m / (sqrt(v) / sqrt(bias2) + eps)
// One pass over memory: 28 bytes an element, which is what the time goes to.
#include "optim/adamw.h"

#include <cmath>
#include <cstring>

#include "optim/blocks.h"
#include "optim/square_roots.h"

namespace thimble::optim {

void adamw_update_cuda(CudaContext&, std::span<const Update>, const Tensor& scalars, const AdamW&);  // adamw.cu

namespace {

constexpr int64_t block = 1024;  // stays in the first cache between the passes over it

struct Step {
  float rate, bias1, sqrt_bias2, scale, decay;  // decay: 1 - lr wd
  float beta1, beta2, eps;
};

void step_block(float* p, const float* g, float* m, float* v, int64_t n, const Step& s) {
  const float step = s.rate / s.bias1, rest1 = 1.0f - s.beta1, rest2 = 1.0f - s.beta2;
  alignas(64) float roots[block];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float gradient = g[i] * s.scale;
    m[i] += rest1 * (gradient - m[i]);
    v[i] = s.beta2 * v[i] + rest2 * gradient * gradient;
    roots[i] = v[i];
  }
  take_square_roots(roots, n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] = p[i] * s.decay - step * (m[i] / (roots[i] / s.sqrt_bias2 + s.eps));
}

}  // namespace

void adamw_states(int64_t count, std::array<quant::Part, 4>& out, int& n) {
  out[0] = {".m", DType::f32, {count}};
  out[1] = {".v", DType::f32, {count}};
  n = 2;
}

void adamw_zero(Stream& s, std::span<const Update> updates) {
  launch(s, zero_work("adamw zero", updates), [&] {
    for (const Update& u : updates)
      for (int i = 0; i < 2; ++i) std::memset(u.states[size_t(i)].data, 0, size_t(u.states[size_t(i)].bytes()));
  }, [&](auto& cuda) {
    for (const Update& u : updates)
      for (int i = 0; i < 2; ++i) fill_cuda(cuda, u.states[size_t(i)], 0);
  });
}

void adamw_update(Stream& s, std::span<const Update> updates, const Tensor& scalars, const AdamW& hyper) {
  launch(s, update_work("adamw", updates, 14), [&] {
    const float* now = scalars.get<float>();
    if (!std::isfinite(now[grad_scale])) return;
    for_blocks(updates, block, 16, [&](const Update& u, int64_t first, int64_t n) {
      const Step step{.rate = now[learning_rate], .bias1 = now[bias1], .sqrt_bias2 = now[sqrt_bias2], .scale = now[grad_scale],
                      .decay = float(1.0 - double(now[learning_rate]) * double(u.weight_decay)),
                      .beta1 = hyper.beta1, .beta2 = hyper.beta2, .eps = hyper.eps};
      step_block(u.param.get<float>() + first, u.grad.get<float>() + first, u.states[0].get<float>() + first,
                 u.states[1].get<float>() + first, n, step);
    });
  }, [&](auto& cuda) { adamw_update_cuda(cuda, updates, scalars, hyper); });
}

}  // namespace thimble::optim
