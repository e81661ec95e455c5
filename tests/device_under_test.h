// Which device the tests of computing rooms run on: the cpu, or with THIMBLE_TEST_DEVICE=cuda the first GPU, its device tier lying where
// the host sees it too, so that one test serves both. (Set CUDA_LAUNCH_BLOCKING=1 as well: tests read results without waiting.)
#pragma once
#include <cstdlib>
#include <string_view>

#include "device/cuda.h"

namespace thimble {

inline bool tests_run_on_cuda() {
  const char* name = std::getenv("THIMBLE_TEST_DEVICE");
  return name && std::string_view(name) == "cuda";
}

// oneDNN multiplies bf16 from AVX-512 on, with or without units of its own for it.
inline bool multiplies_bf16() { return tests_run_on_cuda() || !cpu_instructions().ends_with("AVX2"); }

// As `like`, in what a test fixes of a spec: the type of activations.
inline DeviceSpec spec_under_test(const DeviceSpec& like = {}) {
#ifdef THIMBLE_CUDA
  if (tests_run_on_cuda()) {
    DeviceSpec spec = this_cuda();
    spec.compute = like.compute;
    spec.deterministic = true;
    spec.matmul_workspace = int64_t{1} << 20;
    spec.disk = like.disk;
    return spec;
  }
#endif
  return like;
}

inline std::unique_ptr<Device> device_under_test(const DeviceSpec& like = {}) {
#ifdef THIMBLE_CUDA
  if (tests_run_on_cuda()) return cuda_device(spec_under_test(like), DeviceMemory::host_visible);
#endif
  return cpu_device(like);
}

// As a run has it that needs no same bits again: cuDNN's attention is taken, and memory lies on the card.
inline DeviceSpec spec_as_run() {
  DeviceSpec spec = spec_under_test();
  spec.deterministic = false;
  return spec;
}
inline std::unique_ptr<Device> device_as_run() { return open_device(spec_as_run()); }

}  // namespace thimble
