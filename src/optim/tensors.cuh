// Many tensors in one launch: their addresses travel as the kernel's argument, and a block finds its tensor by bisection. Internal to optim.
#pragma once
#include "device/kernel.cuh"
#include "device/philox.cuh"
#include "optim/optimizer.h"
#include "optim/stochastic_rounding.h"

namespace thimble::optim {

struct DeviceUpdate {
  void* param;
  const void* grad;
  void* states[4];
  int64_t count;
  float weight_decay, rate;
  uint32_t place;
  bool packed;  // states of fewer than 32 bits
  bool bf16_param, bf16_grad;

  explicit DeviceUpdate(const Update& u)
      : param(u.param.data), grad(u.grad.data), count(u.param.count()), weight_decay(u.weight_decay), rate(u.rate), place(u.place),
        packed(u.states[0] && u.states[0].dtype != DType::f32), bf16_param(u.param.dtype == DType::bf16), bf16_grad(u.grad.dtype == DType::bf16) {
    for (int i = 0; i < 4; ++i) states[i] = u.states[size_t(i)].data;
  }
  DeviceUpdate() = default;

  // As read_gradient of blocks.h has it.
  __device__ float gradient(int64_t i) const {
    if (bf16_grad) return float(static_cast<const __nv_bfloat16*>(grad)[i]);
    const float g = static_cast<const float*>(grad)[i];
    return bf16_param ? float(__nv_bfloat16(g)) : g;
  }
};

constexpr int threads = int(draw_stride);  // of every kernel that walks over values

__device__ __forceinline__ __nv_bfloat16 rounded_stochastically(float x, uint32_t bits) {
  const uint32_t u = __float_as_uint(x);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  return __ushort_as_bfloat16(static_cast<unsigned short>((nan ? u | 0x400000u : u + bits) >> 16));
}

// p = f(i, p, g, mine) for the elements of a group, eight to a thread, all threads of the block at once: one that has no element in a row calls f with
// `mine` false.
template <class F>
__device__ void change_rows(const DeviceUpdate& u, int64_t group, const float* now, F&& f) {
  const int64_t first = group * draw_group;
  uint32_t words[4] = {};
  if (u.bf16_param) {
    const uint64_t seed = uint64_t{__float_as_uint(now[seed_high])} << 32 | __float_as_uint(now[seed_low]);
    philox(words, seed, uint64_t{__float_as_uint(now[step_number])} << 32 | u.place, uint64_t(group * draw_stride + threadIdx.x));
  }
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    if (first + k * draw_stride >= u.count) return;
    const int64_t i = first + k * draw_stride + threadIdx.x;
    const bool mine = i < u.count;
    const float g = mine ? u.gradient(i) : 0.0f;
    if (u.bf16_param) {
      auto* const p = static_cast<__nv_bfloat16*>(u.param) + i;
      const float x = f(i, mine ? float(*p) : 0.0f, g, mine);
      if (mine) *p = rounded_stochastically(x, words[k / 2] >> (k % 2 * 16) & 0xffffu);
    } else {
      float* const p = static_cast<float*>(u.param) + i;
      const float x = f(i, mine ? *p : 0.0f, g, mine);
      if (mine) *p = x;
    }
  }
}

// The same of rules whose elements know nothing of each other: p = f(i, p, g).
template <class F>
__device__ void change_values(const DeviceUpdate& u, int64_t group, const float* now, F&& f) {
  change_rows(u, group, now, [&](int64_t i, float p, float g, bool mine) { return mine ? f(i, p, g) : p; });
}

constexpr int most_tensors = 52;  // of one launch: a kernel's arguments are 4 KiB on every architecture

struct DeviceUpdates {
  DeviceUpdate tensors[most_tensors];
  int first_block[most_tensors + 1];  // first_block[i] .. first_block[i + 1] are tensor i's
  int n = 0;

  __device__ int find(int block) const {
    int low = 0, high = n - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_block[middle] <= block) low = middle;
      else high = middle - 1;
    }
    return low;
  }
  __device__ int64_t group_of(int block, int which) const { return int64_t{block} - first_block[which]; }
};
static_assert(sizeof(DeviceUpdates) <= 4096 - 128, "the arguments of a kernel fit");

// run(updates, blocks) for as many launches as the tensors need; a block takes a group of elements.
template <class F>
void for_tensors(std::span<const Update> updates, F&& run) {
  DeviceUpdates now;
  int blocks = 0;
  const auto flush = [&] {
    now.first_block[now.n] = blocks;
    if (blocks > 0) run(now, blocks);
    now.n = blocks = 0;
  };
  for (const Update& u : updates) {
    if (now.n == most_tensors) flush();
    now.first_block[now.n] = blocks;
    now.tensors[now.n++] = DeviceUpdate(u);
    blocks += int(blocks_of(u.param.count(), draw_group));
  }
  flush();
}

}  // namespace thimble::optim
