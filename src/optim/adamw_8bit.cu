// 8-bit AdamW on cuda: a state block of 256 elements to a block of as many threads; moments are decoded, stepped and encoded in registers.
#include "optim/states_8bit.cuh"

namespace thimble::optim {
namespace {

struct Step {
  float size, scale, decay, eps;
};

__device__ Step step_of(const float* now, const Hyper& hyper, const DeviceUpdate& u) {
  const float rate = now[learning_rate] * u.rate;
  return {-rate * now[sqrt_bias2] / now[bias1], now[grad_scale], u.weight_decay > 0 ? 1.0f - rate * u.weight_decay : 1.0f, now[sqrt_bias2] * hyper.eps};
}

__device__ float step_small(const DeviceUpdate& u, int64_t i, float p, float g, const Step& s, const Hyper& hyper) {
  float *m = static_cast<float*>(u.states[0]), *v = static_cast<float*>(u.states[1]);
  const float gradient = g * s.scale;
  m[i] = m[i] * hyper.beta1 + (1.0f - hyper.beta1) * gradient;
  v[i] = v[i] * hyper.beta2 + (1.0f - hyper.beta2) * (gradient * gradient);
  return (p + s.size * (m[i] / (sqrtf(v[i]) + s.eps))) * s.decay;
}

__device__ float step_block(const DeviceUpdate& u, int64_t i, float p, float g, bool mine, const Step& s, const Hyper& hyper, const quant::DeviceMaps& maps) {
  const int64_t block = i / threads;
  const float gradient = g * s.scale;
  uint8_t *m_codes = static_cast<uint8_t*>(u.states[0]), *v_codes = static_cast<uint8_t*>(u.states[1]);
  float *m_absmax = static_cast<float*>(u.states[2]) + block, *v_absmax = static_cast<float*>(u.states[3]) + block;
  float m = 0, v = 0;
  if (mine && isfinite(g)) {
    m = maps.signed_values[m_codes[i]] * *m_absmax * hyper.beta1 + (1.0f - hyper.beta1) * gradient;
    v = maps.unsigned_values[v_codes[i]] * *v_absmax * hyper.beta2 + (1.0f - hyper.beta2) * gradient * gradient;
    p = (p + s.size * (m / (sqrtf(v) + s.eps))) * s.decay;
  }
  const float2 most = block_reduce<threads>(float2{quant::magnitude(m), quant::magnitude(v)}, Max2{});
  if (threadIdx.x == 0) *m_absmax = most.x, *v_absmax = most.y;
  if (!mine) return p;
  m_codes[i] = signed_code(maps, m, most.x);
  v_codes[i] = unsigned_code(maps, v, most.y);
  return p;
}

__global__ void step(const __grid_constant__ DeviceUpdates all, const float* now, Hyper hyper, const quant::DeviceMaps* maps) {
  const int which = all.find(int(blockIdx.x));
  const DeviceUpdate& u = all.tensors[which];
  const Step s = step_of(now, hyper, u);
  if (!isfinite(s.scale)) return;
  const int64_t group = all.group_of(int(blockIdx.x), which);
  if (!u.packed) return change_values(u, group, now, [&](int64_t i, float p, float g) { return step_small(u, i, p, g, s, hyper); });
  const quant::DeviceMaps& near = near_maps(maps);
  change_rows(u, group, now, [&](int64_t i, float p, float g, bool mine) { return step_block(u, i, p, g, mine, s, hyper, near); });
}

}  // namespace

void adamw_8bit_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  for_tensors(updates, [&](const DeviceUpdates& all, int blocks) {
    step<<<unsigned(blocks), threads, 0, cuda.stream>>>(all, at<const float>(scalars), hyper, quant::device_maps());
    check_cuda(cudaGetLastError(), "adamw 8bit");
  });
}

}  // namespace thimble::optim
