// The instructions that tiles are made of, one function each: bf16 products on tensor cores, loads of their fragments from
// shared memory, copies to there that run beside the computation. For compute capability 8 and later; before, they trap: nobody launches them.
#pragma once
#include <cuda_bf16.h>

#include <cstdint>

namespace thimble {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define THIMBLE_ASM(...) __trap()
#else
#define THIMBLE_ASM(...) asm volatile(__VA_ARGS__)
#endif

__device__ inline uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// c (16, 8) += a (16, 16) b (16, 8). With g = lane / 4 and t = lane % 4: c holds rows g, g, g + 8, g + 8 of columns 2t, 2t + 1, 2t, 2t + 1;
// a holds pairs of columns from 2t of rows g, g + 8, then from 2t + 8 of the same; b holds pairs of rows from 2t, 2t + 8 of column g.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  THIMBLE_ASM("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
              : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
              : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four matrices of 8 x 8; lanes 8i .. 8i + 7 name the rows of matrix i. A lane gets the elements 2t, 2t + 1 of row g of each ...
__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  THIMBLE_ASM("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}
// ... or of column g.
__device__ inline void load_transposed(uint32_t (&r)[4], uint32_t address) {
  THIMBLE_ASM("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
              : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

// 16 bytes, or as many zeros.
__device__ inline void copy_16(uint32_t to, const void* from, bool there) {
  THIMBLE_ASM("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0) : "memory");
}
__device__ inline void copy_4(uint32_t to, const void* from) {
  THIMBLE_ASM("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(__cvta_generic_to_global(from)) : "memory");
}
// The copies of this thread since the last call are one group; waits for all groups but the last n.
__device__ inline void commit_copies() { THIMBLE_ASM("cp.async.commit_group;\n" ::: "memory"); }
template <int n>
__device__ inline void wait_for_copies_but() { THIMBLE_ASM("cp.async.wait_group %0;\n" ::"n"(n) : "memory"); }
// Waits for all copies of this thread.
__device__ inline void wait_for_copies() { THIMBLE_ASM("cp.async.wait_all;\n" ::: "memory"); }

__device__ inline float power_of_two(float x) {
  float y = 0;
  THIMBLE_ASM("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Two numbers as bf16, the first in the lower half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&x);
}

#undef THIMBLE_ASM

}  // namespace thimble
