// SGD on cuda: one pass over memory, all tensors of a call in one launch.
#include "optim/tensors.cuh"

namespace thimble::optim {
namespace {

constexpr int threads = 256, block = 1024;

__global__ void step(const __grid_constant__ DeviceUpdates all, const float* now, Hyper hyper) {
  const int which = all.find(int(blockIdx.x));
  const DeviceUpdate& u = all.tensors[which];
  const float scale = now[grad_scale], rate = now[learning_rate] * u.rate;
  if (!isfinite(scale)) return;
  float* m = static_cast<float*>(u.states[0]);
  const int64_t first = int64_t{int(blockIdx.x) - all.first_block[which]} * block, end = min(first + block, u.count);
  for (int64_t i = first + threadIdx.x; i < end; i += threads) {
    float gradient = u.grad[i] * scale + u.weight_decay * u.param[i];
    if (m) gradient = m[i] = hyper.momentum * m[i] + gradient;
    u.param[i] -= rate * gradient;
  }
}

}  // namespace

void sgd_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  for_tensors(updates, block, [&](const DeviceUpdates& all, int blocks) {
    step<<<unsigned(blocks), threads, 0, cuda.stream>>>(all, at<const float>(scalars), hyper);
    check_cuda(cudaGetLastError(), "sgd");
  });
}

}  // namespace thimble::optim
