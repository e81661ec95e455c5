// SGD on cuda: one pass over memory, all tensors of a call in one launch.
#include "optim/tensors.cuh"

namespace thimble::optim {
namespace {

__global__ void step(const __grid_constant__ DeviceUpdates all, const float* now, Hyper hyper) {
  const int which = all.find(int(blockIdx.x));
  const DeviceUpdate& u = all.tensors[which];
  const float scale = now[grad_scale], rate = now[learning_rate] * u.rate;
  if (!isfinite(scale)) return;
  float* m = static_cast<float*>(u.states[0]);
  change_values(u, all.group_of(int(blockIdx.x), which), now, [&](int64_t i, float p, float g) {
    float gradient = g * scale + u.weight_decay * p;
    if (m) gradient = m[i] = hyper.momentum * m[i] + gradient;
    return p - rate * gradient;
  });
}

}  // namespace

void sgd_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  for_tensors(updates, [&](const DeviceUpdates& all, int blocks) {
    step<<<unsigned(blocks), threads, 0, cuda.stream>>>(all, at<const float>(scalars), hyper);
    check_cuda(cudaGetLastError(), "sgd");
  });
}

}  // namespace thimble::optim
