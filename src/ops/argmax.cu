// A block to a row.
#include <climits>

#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

constexpr int threads = 1024;

struct Best { float value; int id; };
__device__ __forceinline__ Best shuffle_xor(Best x, int d) { return {__shfl_xor_sync(~0u, x.value, d), __shfl_xor_sync(~0u, x.id, d)}; }
struct Better {
  __device__ Best operator()(Best a, Best b) const { return a.value > b.value || (a.value == b.value && a.id < b.id) ? a : b; }
};

template <int N>
__global__ void __launch_bounds__(threads) likeliest(int* ids, const float* logits, int64_t vocab) {
  const float* row = logits + int64_t{blockIdx.x} * vocab;
  Best best{-INFINITY, INT_MAX};
  let_later_begin();
  wait_for_earlier();
  for (int64_t v = int64_t{threadIdx.x} * N; v < vocab; v += threads * N) {
    const auto x = load_pack<N>(row + v);
#pragma unroll
    for (int i = 0; i < N; ++i) best = Better{}(best, isfinite(x.at[i]) ? Best{x.at[i], int(v) + i} : Best{INFINITY, -1});  // which nothing finite exceeds
  }
  best = block_reduce<threads>(best, Better{});
  if (threadIdx.x == 0) ids[blockIdx.x] = best.id;
}

}  // namespace

void argmax_cuda(CudaContext& cuda, Tensor ids, Tensor logits) {
  if (logits.shape[0] == 0) return;
  const int64_t vocab = logits.shape[1];
  with_width<float>(vocab, {logits}, [&](auto n) {
    launch_early(cuda, "argmax", unsigned(logits.shape[0]), threads, 0, likeliest<n.value>, at<int>(ids), at<const float>(logits), vocab);
  });
}

}  // namespace thimble::ops
