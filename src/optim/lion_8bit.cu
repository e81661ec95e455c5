// 8-bit Lion on cuda: moments are decoded, stepped and encoded in registers.
#include "optim/lion.cuh"
#include "optim/states_8bit.cuh"

namespace thimble::optim {
namespace {

__global__ void step(const __grid_constant__ DeviceUpdates all, const float* now, Hyper hyper, const quant::DeviceMaps* maps) {
  const int which = all.find(int(blockIdx.x));
  const DeviceUpdate& u = all.tensors[which];
  const DeviceLion lion(u, now, hyper);
  if (!isfinite(lion.scale)) return;
  const int64_t group = all.group_of(int(blockIdx.x), which);
  if (!u.packed) return lion.take(u, group, now, static_cast<float*>(u.states[0]));
  const quant::DeviceMaps& near = near_maps(maps);
  auto* const codes = static_cast<uint8_t*>(u.states[0]);
  change_rows(u, group, now, [&](int64_t i, float p, float g, bool mine) {
    float* const absmax = static_cast<float*>(u.states[1]) + i / state_block;
    float m = mine ? near.signed_values[codes[i]] * *absmax : 0.0f;
    if (mine) p = lion.stepped(p, g, m);
    const float most = block_reduce<threads>(quant::magnitude(m), Max{});
    if (threadIdx.x == 0) *absmax = most;
    if (mine) codes[i] = signed_code(near, m, most);
    return p;
  });
}

}  // namespace

void lion_8bit_update_cuda(CudaContext& cuda, std::span<const Update> updates, const Tensor& scalars, const Hyper& hyper) {
  for_tensors(updates, [&](const DeviceUpdates& all, int blocks) {
    step<<<unsigned(blocks), threads, 0, cuda.stream>>>(all, at<const float>(scalars), hyper, quant::device_maps());
    check_cuda(cudaGetLastError(), "lion 8bit");
  });
}

}  // namespace thimble::optim
