// Many tensors in one launch: their addresses travel as the kernel's argument, and a block finds its tensor by bisection. Internal to optim.
#pragma once
#include "device/kernel.cuh"
#include "optim/optimizer.h"

namespace thimble::optim {

struct DeviceUpdate {
  float* param;
  const float* grad;
  void* states[4];
  int64_t count;
  float weight_decay, rate;
  bool packed;  // states of fewer than 32 bits
};

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
};
static_assert(sizeof(DeviceUpdates) <= 4096 - 128, "the arguments of a kernel fit");

// run(updates, blocks) for as many launches as the tensors need; a block takes `size` elements.
template <class F>
void for_tensors(std::span<const Update> updates, int64_t size, F&& run) {
  DeviceUpdates now;
  int blocks = 0;
  const auto flush = [&] {
    now.first_block[now.n] = blocks;
    if (blocks > 0) run(now, blocks);
    now.n = blocks = 0;
  };
  for (const Update& u : updates) {
    if (now.n == most_tensors) flush();
    DeviceUpdate d{at<float>(u.param), at<const float>(u.grad), {}, u.param.count(), u.weight_decay, u.rate, u.states[0] && u.states[0].dtype != DType::f32};
    for (int i = 0; i < 4; ++i) d.states[i] = u.states[size_t(i)].data;
    now.first_block[now.n] = blocks;
    now.tensors[now.n++] = d;
    blocks += int(blocks_of(d.count, size));
  }
  flush();
}

}  // namespace thimble::optim
