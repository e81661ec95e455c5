// p *= 1 - lr wd; m += (1 - b1) (g - m); v = b2 v + (1 - b2) g^2; p -= lr / bias1 * m / (sqrt(v) / sqrt(bias2) + eps)
// One pass over memory: 28 bytes an element in f32, which is what the time goes to.
#include "optim/adamw.h"

#include <cmath>

#include "optim/blocks.h"
#include "optim/square_roots.h"
#include "optim/states_8bit.h"

namespace thimble::optim {

void adamw_update_cuda(CudaContext&, std::span<const Update>, const Tensor& scalars, const Hyper&);  // adamw.cu

namespace {

constexpr int64_t block = 1024;  // stays in the first cache between the passes over it

struct Step {
  float rate, bias1, sqrt_bias2, scale, decay;  // decay: 1 - lr wd
  float beta1, beta2, eps;
};

template <class S>
void step_block(float* p, const float* g, S* m, S* v, int64_t n, const Step& s) {
  const float step = s.rate / s.bias1, rest1 = 1.0f - s.beta1, rest2 = 1.0f - s.beta2;
  alignas(64) float means[block], roots[block];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float gradient = g[i] * s.scale, before = float(m[i]), square = s.beta2 * float(v[i]) + rest2 * gradient * gradient;
    m[i] = S(before + rest1 * (gradient - before));
    v[i] = S(square);
    means[i] = float(m[i]);
    roots[i] = float(v[i]);
  }
  take_square_roots(roots, n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] = p[i] * s.decay - step * (means[i] / (roots[i] / s.sqrt_bias2 + s.eps));
}

void states(DType dtype, const Shape& param, std::array<quant::Part, 4>& out, int& n) {
  out[0] = {".m", dtype, {param.count()}};
  out[1] = {".v", dtype, {param.count()}};
  n = 2;
}

}  // namespace

void adamw_states(const Shape& param, std::array<quant::Part, 4>& out, int& n) { states(DType::f32, param, out, n); }
void adamw_bf16_states(const Shape& param, std::array<quant::Part, 4>& out, int& n) {
  states(packs(param) ? DType::bf16 : DType::f32, param, out, n);
}

void adamw_update(Stream& s, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  launch(s, update_work("adamw", updates, 14), [&] {
    const float* now = scalars.get<float>();
    if (!std::isfinite(now[grad_scale])) return;
    for_values(updates, block, now, [&](const Update& u, float* p, const float* g, int64_t first, int64_t n) {
      const float rate = now[learning_rate] * u.rate;
      const Step step{.rate = rate, .bias1 = now[bias1], .sqrt_bias2 = now[sqrt_bias2], .scale = now[grad_scale],
                      .decay = float(1.0 - double(rate) * double(u.weight_decay)),
                      .beta1 = hyper.beta1, .beta2 = hyper.beta2, .eps = hyper.eps};
      visit_float(u.states[0].dtype, [&]<class S>(S) {
        step_block(p, g, u.states[0].get<S>() + first, u.states[1].get<S>() + first, n, step);
      });
    });
  }, [&](auto& cuda) { adamw_update_cuda(cuda, updates, scalars, hyper); });
}

}  // namespace thimble::optim
