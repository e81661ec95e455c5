// One pass over memory.
#include "optim/sgd.h"

#include <cmath>

#include "optim/blocks.h"

namespace thimble::optim {

void sgd_update_cuda(CudaContext&, std::span<const Update>, const Tensor& scalars, const Hyper&);  // sgd.cu

namespace {

constexpr int64_t block = 1024;

}  // namespace

void sgd_states(const Shape&, std::array<quant::Part, 4>&, int& n) { n = 0; }
void sgd_momentum_states(const Shape& param, std::array<quant::Part, 4>& out, int& n) {
  out[0] = {".momentum", DType::f32, {param.count()}};
  n = 1;
}

void sgd_update(Stream& s, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  launch(s, update_work("sgd", updates, 5), [&] {
    const float* now = scalars.get<float>();
    const float scale = now[grad_scale];
    if (!std::isfinite(scale)) return;
    for_values(updates, block, now, [&](const Update& u, float* p, const float* g, int64_t first, int64_t n) {
      const float rate = now[learning_rate] * u.rate, decay = u.weight_decay;
      if (!u.states[0]) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) p[i] -= rate * (g[i] * scale + decay * p[i]);
        return;
      }
      float* m = u.states[0].get<float>() + first;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        m[i] = hyper.momentum * m[i] + (g[i] * scale + decay * p[i]);
        p[i] -= rate * m[i];
      }
    });
  }, [&](auto& cuda) { sgd_update_cuda(cuda, updates, scalars, hyper); });
}

}  // namespace thimble::optim
