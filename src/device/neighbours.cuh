// Blocks of a cluster (compute capability 9), which read each other's shared memory. A block alone is its own only neighbour.
#pragma once
#include <cooperative_groups.h>

namespace thimble {

constexpr unsigned most_neighbours = 8;  // that every card with clusters takes

// How many, which one this is, a barrier of them all, and where another has what lies at p here.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 900
struct Neighbours {
  __device__ int count() const { return 1; }
  __device__ int rank() const { return 0; }
  __device__ void meet() const { __syncthreads(); }
  template <class T>
  __device__ const T* of(int, const T* p) const { return p; }
};
#else
struct Neighbours {
  __device__ int count() const { return int(cooperative_groups::this_cluster().num_blocks()); }
  __device__ int rank() const { return int(cooperative_groups::this_cluster().block_rank()); }
  __device__ void meet() const { asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory"); }
  template <class T>
  __device__ const T* of(int rank, T* p) const { return cooperative_groups::this_cluster().map_shared_rank(p, rank); }
};
#endif

}  // namespace thimble
