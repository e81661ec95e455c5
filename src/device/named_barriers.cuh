// A block's barriers by name, 1 to 15, each of a number of threads, whole warps. Who comes goes on; who waits does not look again and again, as at a barrier in memory.
#pragma once

namespace thimble {

__device__ __forceinline__ void come_to(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
__device__ __forceinline__ void wait_at(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

}  // namespace thimble
