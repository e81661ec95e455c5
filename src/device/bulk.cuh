// Barriers in shared memory, copies of the bulk engine that come to them, and what brings bytes to the second cache. For compute capability 9 and later;
// before, they trap: nobody launches them.
#pragma once
#include "device/mma.cuh"

namespace thimble {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define THIMBLE_ASM(...) __trap()
#else
#define THIMBLE_ASM(...) asm volatile(__VA_ARGS__)
#endif

__device__ __forceinline__ void barrier_init(uint64_t& b, int arrivals) { THIMBLE_ASM("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&b)), "r"(arrivals) : "memory"); }
__device__ __forceinline__ void barriers_are_made() { THIMBLE_ASM("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void arrive_expecting(uint64_t& b, uint32_t bytes) { THIMBLE_ASM("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(&b)), "r"(bytes) : "memory"); }
__device__ __forceinline__ void arrive(uint64_t& b) { THIMBLE_ASM("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(&b)) : "memory"); }
__device__ __forceinline__ void wait_for(uint64_t& b, uint32_t parity) {
  THIMBLE_ASM("{\n.reg .pred done;\nagain_%=:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra again_%=;\n}\n" ::"r"(shared_address(&b)), "r"(parity) : "memory");
}
// Both places and the size are multiples of 16 bytes.
__device__ __forceinline__ void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t& b) {
  THIMBLE_ASM("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(__cvta_generic_to_global(from)),
              "r"(bytes), "r"(shared_address(&b)) : "memory");
}
__device__ __forceinline__ void prefetch(const void* p) { THIMBLE_ASM("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p))); }
__device__ __forceinline__ void bulk_prefetch(const void* p, uint32_t bytes) { THIMBLE_ASM("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "r"(bytes)); }

#undef THIMBLE_ASM

}  // namespace thimble
