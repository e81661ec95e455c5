// AdamW on cuda: one pass over memory, all tensors of a call in one launch.
#include "optim/tensors.cuh"

namespace thimble::optim {
namespace {

constexpr int threads = 256, block = 1024;

__global__ void step(const __grid_constant__ DeviceUpdates all, const float* now, AdamW hyper) {
  const int which = all.find(int(blockIdx.x));
  const DeviceUpdate& u = all.tensors[which];
  float *m = static_cast<float*>(u.states[0]), *v = static_cast<float*>(u.states[1]);
  const float rate = now[learning_rate], size = rate / now[bias1], root = now[sqrt_bias2], scale = now[grad_scale];
  if (!isfinite(scale)) return;
  const float decay = float(1.0 - double(rate) * double(u.weight_decay)), rest1 = 1.0f - hyper.beta1, rest2 = 1.0f - hyper.beta2;
  const int64_t first = int64_t{int(blockIdx.x) - all.first_block[which]} * block, end = min(first + block, u.count);
  for (int64_t i = first + threadIdx.x; i < end; i += threads) {
    const float gradient = u.grad[i] * scale;
    const float mean = m[i] + rest1 * (gradient - m[i]), square = hyper.beta2 * v[i] + rest2 * gradient * gradient;
    m[i] = mean;
    v[i] = square;
    u.param[i] = u.param[i] * decay - size * (mean / (sqrtf(square) / root + hyper.eps));
  }
}

}  // namespace

void adamw_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, const AdamW& hyper) {
  for_tensors(updates, block, [&](const DeviceUpdates& all, int blocks) {
    step<<<unsigned(blocks), threads, 0, cuda.stream>>>(all, at<const float>(scalars), hyper);
    check_cuda(cudaGetLastError(), "adamw");
  });
}

void fill_cuda(CudaContext& cuda, Tensor x, int byte) { check_cuda(cudaMemsetAsync(x.data, byte, size_t(x.bytes()), cuda.stream), "cudaMemsetAsync"); }

}  // namespace thimble::optim
