// What kernels share: wide loads, sums over a block in a fixed order, the dtype dispatch, one elementwise loop.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "base/tensor.h"
#include "device/cuda.cuh"

namespace thimble {

// N values that travel in one access of sizeof(T) * N <= 16 bytes.
template <class T, int N> struct alignas(sizeof(T) * N) Pack { T at[N]; };

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) { return *reinterpret_cast<const Pack<T, N>*>(p); }
template <int N, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& x) { *reinterpret_cast<Pack<T, N>*>(p) = x; }

struct Add { template <class T> __device__ T operator()(T a, T b) const { return a + b; } };
struct Max { __device__ float operator()(float a, float b) const { return fmaxf(a, b); } };

struct Max2 { __device__ float2 operator()(float2 a, float2 b) const { return {fmaxf(a.x, b.x), fmaxf(a.y, b.y)}; } };  // two maxima at once

template <class T>
__device__ __forceinline__ T shuffle_xor(T x, int d) { return __shfl_xor_sync(~0u, x, d); }
__device__ __forceinline__ float2 shuffle_xor(float2 x, int d) { return {__shfl_xor_sync(~0u, x.x, d), __shfl_xor_sync(~0u, x.y, d)}; }

// The reduction over a warp, in every lane, as a fixed tree.
template <class T, class F>
__device__ __forceinline__ T warp_reduce(T x, F f) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) x = f(x, shuffle_xor(x, d));
  return x;
}

// The reduction over a block of `threads`, in every thread, as a fixed tree. May be called again at once.
template <int threads, class T, class F>
__device__ __forceinline__ T block_reduce(T x, F f) {
  __shared__ T warps[threads / 32];
  x = warp_reduce(x, f);
  __syncthreads();  // an earlier call's results were read
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  T total = warps[0];
#pragma unroll
  for (int i = 1; i < threads / 32; ++i) total = f(total, warps[i]);
  return total;
}

// Not visit_float: nvcc takes no _Float16, which is what the host's f16 holds.
template <class F>
void visit_cuda(DType t, F&& f) {
  switch (t) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(__nv_bfloat16{});
    case DType::f16: return f(__half{});
    default: throw Error("a kernel takes floating-point tensors");
  }
}

// Once for a kernel and a size beyond what every launch may take: how much shared memory it may take.
inline void prepare_kernel(CudaContext& cuda, const void* kernel, const char* name, size_t shared) {
  if (shared <= 48 << 10) return;
  size_t& prepared = cuda.prepared[kernel];
  if (shared <= prepared) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)), name);
  prepared = shared;
}

// How many of a kernel's blocks are there at once; it is ready to be launched then.
template <class... P>
int resident_blocks(CudaContext& cuda, const char* name, void (*kernel)(P...), int threads, size_t shared) {
  const auto* key = reinterpret_cast<const void*>(kernel);
  prepare_kernel(cuda, key, name, shared);
  int& resident = cuda.resident[key];
  if (resident == 0) check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared), "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  check(resident > 0, "a block of the kernel fits a multiprocessor");
  return resident * cuda.processors;
}

// A kernel that is launched early may begin while the one before it still runs (compute capability 9): what it does before wait_for_earlier() hides
// behind that one's end, and may read only what no kernel writes. After let_later_begin() the next one may begin likewise.
__device__ __forceinline__ void wait_for_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_later_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Blocks, and how many neighbours along x are a cluster, which read each other's shared memory (compute capability 9).
struct Grid {
  dim3 blocks;
  unsigned cluster = 1;
  Grid(dim3 b, unsigned c = 1) : blocks(b), cluster(c) {}
  Grid(unsigned n) : blocks(n) {}
};
template <class... P, class... A>
void launch_early(CudaContext& cuda, const char* name, const Grid& grid, unsigned threads, size_t shared, void (*kernel)(P...), A... args) {
  prepare_kernel(cuda, reinterpret_cast<const void*>(kernel), name, shared);
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared;
  config.stream = cuda.stream;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {grid.cluster, 1, 1};
  config.attrs = attributes;
  config.numAttrs = cuda.capability < 90 ? 0 : grid.cluster > 1 ? 2 : 1;
  check_cuda(cudaLaunchKernelEx(&config, kernel, P(args)...), name);
}

template <class T>
T* at(const Tensor& x) { return static_cast<T*>(x.data); }

constexpr int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// f(i) for i in [0, n), each in a thread of its own.
template <class F>
__global__ void for_each_kernel(F f, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  let_later_begin();
  wait_for_earlier();
  if (i < n) f(i);
}
template <class F>
void for_each(CudaContext& cuda, int64_t n, const F& f) {
  if (n == 0) return;
  constexpr int threads = 256;
  launch_early(cuda, "an elementwise kernel", unsigned(blocks_of(n, threads)), threads, 0, for_each_kernel<F>, f, n);
}

// f(n) with how many values an access takes, as a type: 16 bytes where `count` values and all of `places` divide into such, else one value.
template <class X, class F>
void with_width(int64_t count, std::initializer_list<Tensor> places, F&& f) {
  constexpr int wide = 16 / int(sizeof(X));
  bool fits = count % wide == 0;
  for (const Tensor& t : places) fits = fits && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  if (fits) f(std::integral_constant<int, wide>{});
  else f(std::integral_constant<int, 1>{});
}

}  // namespace thimble
