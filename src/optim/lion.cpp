// One pass over memory.
#include "optim/lion.h"

#include <cmath>

#include "optim/blocks.h"

namespace thimble::optim {

void lion_update_cuda(CudaContext&, std::span<const Update>, const Tensor& scalars, const Hyper&);  // lion.cu

namespace {

constexpr int64_t block = 1024;

}  // namespace

void lion_states(const Shape& param, std::array<quant::Part, 4>& out, int& n) {
  out[0] = {".m", DType::f32, {param.count()}};
  n = 1;
}

void lion_update(Stream& s, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  launch(s, update_work("lion", updates, 9), [&] {
    const float* now = scalars.get<float>();
    const float scale = now[grad_scale], rest1 = 1.0f - hyper.beta1, rest2 = 1.0f - hyper.beta2;
    if (!std::isfinite(scale)) return;
    for_values(updates, block, now, [&](const Update& u, float* p, const float* g, int64_t first, int64_t n) {
      const float rate = now[learning_rate] * u.rate, decay = float(1.0 - double(rate) * double(u.weight_decay));
      float* m = u.states[0].get<float>() + first;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float gradient = g[i] * scale, way = hyper.beta1 * m[i] + rest1 * gradient;
        p[i] = p[i] * decay - rate * (way > 0 ? 1.0f : way < 0 ? -1.0f : 0.0f);
        m[i] = hyper.beta2 * m[i] + rest2 * gradient;
      }
    });
  }, [&](auto& cuda) { lion_update_cuda(cuda, updates, scalars, hyper); });
}

}  // namespace thimble::optim
