// Barriers in shared memory, copies that come to them, and what brings bytes to the second cache.
#pragma once
#include "device/assembly.cuh"
#include "device/mma.cuh"
#include "device/named_barriers.cuh"

namespace thimble {

__device__ __forceinline__ void barrier_init(uint64_t& b, int arrivals) { THIMBLE_ASM_90("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&b)), "r"(arrivals) : "memory"); }
__device__ __forceinline__ void barriers_are_made() { THIMBLE_ASM_90("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Places in shared memory by their addresses there.
__device__ __forceinline__ void arrive_expecting(uint32_t b, uint32_t bytes) { THIMBLE_ASM_90("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(b), "r"(bytes) : "memory"); }
__device__ __forceinline__ void arrive(uint32_t b) { THIMBLE_ASM_90("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(b) : "memory"); }
__device__ __forceinline__ void arrive(uint64_t& b) { arrive(shared_address(&b)); }
__device__ __forceinline__ void wait_for(uint64_t& b, uint32_t parity) {
  THIMBLE_ASM_90("{\n.reg .pred done;\nagain_%=:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra again_%=;\n}\n" ::"r"(shared_address(&b)), "r"(parity) : "memory");
}
// Both places and the size are multiples of 16 bytes.
__device__ __forceinline__ void bulk_copy(uint32_t to, const void* from, uint32_t bytes, uint32_t b) {
  THIMBLE_ASM_90("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(__cvta_generic_to_global(from)),
              "r"(bytes), "r"(b) : "memory");
}
// One arrival of this thread, when all that it copies by itself (copy_16, copy_4) is there; the barrier counts on it from the beginning.
__device__ __forceinline__ void arrive_when_copied(uint32_t b) { THIMBLE_ASM_90("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(b) : "memory"); }
__device__ __forceinline__ void store_shared(uint32_t to, uint32_t a, uint32_t b) { THIMBLE_ASM_90("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(a), "r"(b) : "memory"); }
__device__ __forceinline__ void prefetch(const void* p) { THIMBLE_ASM_90("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p))); }
__device__ __forceinline__ void bulk_prefetch(const void* p, uint32_t bytes) { THIMBLE_ASM_90("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "r"(bytes)); }

}  // namespace thimble
