// A block's moment is decoded, stepped and encoded on the stack.
#include "optim/lion_8bit.h"

#include <cmath>

#include "optim/blocks.h"
#include "optim/lion.h"
#include "optim/states_8bit.h"

namespace thimble::optim {

void lion_8bit_update_cuda(CudaContext&, std::span<const Update>, const Tensor& scalars, const Hyper&);  // lion_8bit.cu

void lion_8bit_states(const Shape& param, std::array<quant::Part, 4>& out, int& n) {
  if (!packs(param)) return lion_states(param, out, n);
  out[0] = {".m", DType::u8, {param.count()}};
  out[1] = {".m_absmax", DType::f32, {state_blocks(param)}};
  n = 2;
}

void lion_8bit_update(Stream& s, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  launch(s, update_work("lion 8bit", updates, 15), [&] {
    const float* now = scalars.get<float>();
    if (!std::isfinite(now[grad_scale])) return;
    for_values(updates, state_block, now, [&](const Update& u, float* p, const float* g, int64_t first, int64_t n) {
      const LionStep step(u, now, hyper);
      if (u.states[0].dtype == DType::f32) return step.take(p, g, u.states[0].get<float>() + first, n);
      uint8_t* codes = u.states[0].get<uint8_t>() + first;
      float& absmax = u.states[1].get<float>()[first / state_block];
      alignas(64) float m[state_block];
      decode(m, codes, n, absmax, quant::signed_map());
      step.take(p, g, m, n);
      absmax = quant::largest_magnitude(m, n);
      encode_signed(codes, m, n, absmax);
    });
  }, [&](auto& cuda) { lion_8bit_update_cuda(cuda, updates, scalars, hyper); });
}

}  // namespace thimble::optim
