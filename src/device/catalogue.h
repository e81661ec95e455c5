// GPUs by name, so that a laptop plans for a card that is not there: what their makers publish, times what an H200 was measured to reach of it.
#pragma once
#include <optional>
#include <span>
#include <string_view>

#include "device/spec.h"

namespace thimble {

// Published figures; rates of matrix products are dense, with sums in f32.
struct Gpu {
  const char* key;         // as it is typed
  const char* name;
  int capability;          // compute capability, 89: 8.9
  int64_t memory_mib;      // that the driver reports, below what the box says
  double half, fp8, f32;   // TFLOP/s; half: of bf16, or of f16 before compute capability 8.0; 0: no such units
  double memory_gb;        // GB/s of its memory
  double link_gb;          // GB/s to the host, each way: PCIe 3, 4, 5 x16 are 16, 32, 64
  const char* source;
};
std::span<const Gpu> gpus();
const Gpu* find_gpu(std::string_view key);  // null: none of that name

// What the driver's context, the libraries and the kernels' code take of a card where that was not measured.
constexpr int64_t usual_overhead = int64_t{640} << 20;
// The type of activations: bf16 where tensor cores take it, from 8.0 on, else f16.
constexpr DType half_of(int capability) { return capability >= 80 ? DType::bf16 : DType::f16; }
// The card as a plan sees it, with nothing else on it.
DeviceSpec spec_of(const Gpu&);
// The one whose name a driver gives, "NVIDIA H200": its longest match, null where there is none.
const Gpu* gpu_of_driver_name(std::string_view name);

}  // namespace thimble
