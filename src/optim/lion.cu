// Lion on cuda: one pass over memory, all tensors of a call in one launch.
#include "optim/tensors.cuh"

namespace thimble::optim {
namespace {

__global__ void step(const __grid_constant__ DeviceUpdates all, const float* now, Hyper hyper) {
  const int which = all.find(int(blockIdx.x));
  const DeviceUpdate& u = all.tensors[which];
  const float scale = now[grad_scale], rate = now[learning_rate] * u.rate, decay = float(1.0 - double(rate) * double(u.weight_decay));
  if (!isfinite(scale)) return;
  float* m = static_cast<float*>(u.states[0]);
  change_values(u, all.group_of(int(blockIdx.x), which), now, [&](int64_t i, float p, float g) {
    const float gradient = g * scale, way = hyper.beta1 * m[i] + (1.0f - hyper.beta1) * gradient;
    m[i] = hyper.beta2 * m[i] + (1.0f - hyper.beta2) * gradient;
    return p * decay - rate * (way > 0 ? 1.0f : way < 0 ? -1.0f : 0.0f);
  });
}

}  // namespace

void lion_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  for_tensors(updates, [&](const DeviceUpdates& all, int blocks) {
    step<<<unsigned(blocks), threads, 0, cuda.stream>>>(all, at<const float>(scalars), hyper);
    check_cuda(cudaGetLastError(), "lion");
  });
}

}  // namespace thimble::optim
