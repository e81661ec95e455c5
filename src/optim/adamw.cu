// AdamW on cuda: one pass over memory, all tensors of a call in one launch.
#include "optim/tensors.cuh"

namespace thimble::optim {
namespace {

template <class S>
__device__ void step_group(const DeviceUpdate& u, int64_t group, float rate, const float* now, const Hyper& hyper) {
  S *m = static_cast<S*>(u.states[0]), *v = static_cast<S*>(u.states[1]);
  const float size = rate / now[bias1], root = now[sqrt_bias2], scale = now[grad_scale];
  const float decay = float(1.0 - double(rate) * double(u.weight_decay)), rest1 = 1.0f - hyper.beta1, rest2 = 1.0f - hyper.beta2;
  change_values(u, group, now, [&](int64_t i, float p, float g) {
    const float gradient = g * scale, before = float(m[i]);
    m[i] = S(before + rest1 * (gradient - before));
    v[i] = S(hyper.beta2 * float(v[i]) + rest2 * gradient * gradient);
    return p * decay - size * (float(m[i]) / (sqrtf(float(v[i])) / root + hyper.eps));
  });
}

__global__ void step(const __grid_constant__ DeviceUpdates all, const float* now, Hyper hyper) {
  const int which = all.find(int(blockIdx.x));
  const DeviceUpdate& u = all.tensors[which];
  if (!isfinite(now[grad_scale])) return;
  const int64_t group = all.group_of(int(blockIdx.x), which);
  const float rate = now[learning_rate] * u.rate;
  if (u.packed) step_group<__nv_bfloat16>(u, group, rate, now, hyper);
  else step_group<float>(u, group, rate, now, hyper);
}

}  // namespace

void adamw_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  for_tensors(updates, [&](const DeviceUpdates& all, int blocks) {
    step<<<unsigned(blocks), threads, 0, cuda.stream>>>(all, at<const float>(scalars), hyper);
    check_cuda(cudaGetLastError(), "adamw");
  });
}

void fill_cuda(CudaContext& cuda, Tensor x, int byte) { check_cuda(cudaMemsetAsync(x.data, byte, size_t(x.bytes()), cuda.stream), "cudaMemsetAsync"); }

}  // namespace thimble::optim
