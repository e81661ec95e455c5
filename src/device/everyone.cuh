// All blocks of a kernel, there at once, that wait for each other.
#pragma once
#include <cuda_runtime.h>

#include "device/assembly.cuh"

namespace thimble {

// A count, 0 at first, of the blocks that have come, whose highest bit turns when all have. By one warp of each; each has come before one comes again.
struct Everyone {
  unsigned* count;
  unsigned seen;  // the highest bit, before
  __device__ explicit Everyone(unsigned& of) : count(&of), seen(now()) {}
  __device__ unsigned now() const {
    unsigned x = 0;
    THIMBLE_ASM_90("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(count) : "memory");
    return x & 1u << 31;
  }
  __device__ void come(int lane) const {
    __syncwarp();
    [[maybe_unused]] const unsigned by = blockIdx.x == 0 ? (1u << 31) - (gridDim.x - 1) : 1;
    if (lane == 0) THIMBLE_ASM_90("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(count), "r"(by) : "memory");
  }
  __device__ void wait(int lane) {
    if (lane == 0) while (now() == seen) {}
    seen ^= 1u << 31;
    __syncwarp();
  }
};

}  // namespace thimble
