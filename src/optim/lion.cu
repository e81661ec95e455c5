// Lion on cuda: one pass over memory, all tensors of a call in one launch.
#include "optim/lion.cuh"

namespace thimble::optim {
namespace {

__global__ void step(const __grid_constant__ DeviceUpdates all, const float* now, Hyper hyper) {
  const int which = all.find(int(blockIdx.x));
  const DeviceUpdate& u = all.tensors[which];
  const DeviceLion lion(u, now, hyper);
  if (isfinite(lion.scale)) lion.take(u, all.group_of(int(blockIdx.x), which), now, static_cast<float*>(u.states[0]));
}

}  // namespace

void lion_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  for_tensors(updates, [&](const DeviceUpdates& all, int blocks) {
    step<<<unsigned(blocks), threads, 0, cuda.stream>>>(all, at<const float>(scalars), hyper);
    check_cuda(cudaGetLastError(), "lion");
  });
}

}  // namespace thimble::optim
