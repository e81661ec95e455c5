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
    if (!std::isfinite(now[grad_scale])) return;
    for_values(updates, block, now, [&](const Update& u, float* p, const float* g, int64_t first, int64_t n) {
      LionStep(u, now, hyper).take(p, g, u.states[0].get<float>() + first, n);
    });
  }, [&](auto& cuda) { lion_update_cuda(cuda, updates, scalars, hyper); });
}

}  // namespace thimble::optim
