// The rule of bitsandbytes: decay after the update, eps scaled by the bias correction, codes of m that keep its sign, and an element whose
// gradient is not finite is left as it is, with its moments set to 0.
#include "optim/adamw_8bit.h"

#include <bit>

#include "optim/adamw.h"
#include "optim/blocks.h"
#include "optim/square_roots.h"
#include "optim/states_8bit.h"

namespace thimble::optim {

void adamw_8bit_update_cuda(CudaContext&, std::span<const Update>, const Tensor& scalars, const Hyper&);  // adamw_8bit.cu

namespace {

struct Step {
  float size, scale, decay, eps;  // size: -lr sqrt_bias2 / bias1; decay: 1 - lr wd; eps: times sqrt_bias2
  float beta1, beta2;
};

Step step_of(const float* now, const Hyper& hyper, const Update& u) {
  const float rate = now[learning_rate] * u.rate;
  return {.size = -rate * now[sqrt_bias2] / now[bias1],
          .scale = now[grad_scale],
          .decay = u.weight_decay > 0 ? 1.0f - rate * u.weight_decay : 1.0f,
          .eps = now[sqrt_bias2] * hyper.eps,
          .beta1 = hyper.beta1,
          .beta2 = hyper.beta2};
}

inline bool finite(float x) { return (std::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }

// The f32 rule of small tensors, for a block; it has no exception for gradients that are not finite.
void step_small(float* p, const float* g, float* m, float* v, int64_t n, const Step& s) {
  alignas(64) float roots[state_block];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float gradient = g[i] * s.scale;
    m[i] = m[i] * s.beta1 + (1.0f - s.beta1) * gradient;
    v[i] = v[i] * s.beta2 + (1.0f - s.beta2) * (gradient * gradient);
    roots[i] = v[i];
  }
  take_square_roots(roots, n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] = (p[i] + s.size * (m[i] / (roots[i] + s.eps))) * s.decay;
}

// The update of one block whose moments were decoded: m, v and p are overwritten.
void step_moments(float* p, const float* g, float* m, float* v, int64_t n, const Step& s) {
  alignas(64) float roots[state_block];
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float gradient = g[i] * s.scale;
    const float mean = m[i] * s.beta1 + (1.0f - s.beta1) * gradient;
    const float square = v[i] * s.beta2 + (1.0f - s.beta2) * gradient * gradient;
    m[i] = finite(g[i]) ? mean : 0.0f;
    v[i] = finite(g[i]) ? square : 0.0f;
    roots[i] = v[i];
  }
  take_square_roots(roots, n);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float moved = (p[i] + s.size * (m[i] / (roots[i] + s.eps))) * s.decay;
    p[i] = finite(g[i]) ? moved : p[i];
  }
}

void step_block(const Update& u, float* p, const float* g, int64_t first, int64_t n, const Step& s) {
  uint8_t* m_codes = u.states[0].get<uint8_t>() + first;
  uint8_t* v_codes = u.states[1].get<uint8_t>() + first;
  float& m_absmax = u.states[2].get<float>()[first / state_block];
  float& v_absmax = u.states[3].get<float>()[first / state_block];
  alignas(64) float m[state_block], v[state_block];
  decode(m, m_codes, n, m_absmax, quant::signed_map());
  decode(v, v_codes, n, v_absmax, quant::unsigned_map());
  step_moments(p, g, m, v, n, s);
  m_absmax = quant::largest_magnitude(m, n);
  v_absmax = quant::largest_magnitude(v, n);
  encode_signed(m_codes, m, n, m_absmax);
  encode_unsigned(v_codes, v, n, v_absmax);
}

}  // namespace

void adamw_8bit_states(const Shape& param, std::array<quant::Part, 4>& out, int& n) {
  if (!packs(param)) return adamw_states(param, out, n);
  out[0] = {".m", DType::u8, {param.count()}};
  out[1] = {".v", DType::u8, {param.count()}};
  out[2] = {".m_absmax", DType::f32, {state_blocks(param)}};
  out[3] = {".v_absmax", DType::f32, {state_blocks(param)}};
  n = 4;
}

void adamw_8bit_update(Stream& s, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  launch(s, update_work("adamw 8bit", updates, 20), [&] {
    const float* now = scalars.get<float>();
    if (!finite(now[grad_scale])) return;
    for_values(updates, state_block, now, [&](const Update& u, float* p, const float* g, int64_t first, int64_t n) {
      const Step step = step_of(now, hyper, u);
      if (u.states[0].dtype == DType::u8) return step_block(u, p, g, first, n, step);
      step_small(p, g, u.states[0].get<float>() + first, u.states[1].get<float>() + first, n, step);
    });
  }, [&](auto& cuda) { adamw_8bit_update_cuda(cuda, updates, scalars, hyper); });
}

}  // namespace thimble::optim
