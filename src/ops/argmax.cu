// A block to a row, or neighbours to a long one, of which one block would be long in reading all.
#include <climits>

#include "device/kernel.cuh"
#include "device/neighbours.cuh"

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
  __shared__ Best of_block;
  const Neighbours neighbours;
  const int count = neighbours.count(), rank = neighbours.rank();
  const float* row = logits + int64_t{blockIdx.y} * vocab;
  Best best{-INFINITY, INT_MAX};
  let_later_begin();
  wait_for_earlier();
  for (int64_t v = (int64_t{rank} * threads + threadIdx.x) * N; v < vocab; v += int64_t{count} * threads * N) {
    const auto x = load_pack<N>(row + v);
#pragma unroll
    for (int i = 0; i < N; ++i) best = Better{}(best, isfinite(x.at[i]) ? Best{x.at[i], int(v) + i} : Best{INFINITY, -1});  // which nothing finite exceeds
  }
  best = block_reduce<threads>(best, Better{});
  if (threadIdx.x == 0) of_block = best;
  neighbours.meet();
  if (rank == 0 && threadIdx.x == 0) {
    for (int i = 1; i < count; ++i) best = Better{}(best, *neighbours.of(i, &of_block));
    ids[blockIdx.y] = best.id;
  }
  neighbours.meet();  // none is gone before it is read
}

}  // namespace

void argmax_cuda(CudaContext& cuda, Tensor ids, Tensor logits) {
  if (logits.shape[0] == 0) return;
  const int64_t vocab = logits.shape[1];
  with_width<float>(vocab, {logits}, [&](auto n) {
    const unsigned neighbours = cuda.capability >= 90 && vocab >= int64_t{threads} * n.value * most_neighbours ? most_neighbours : 1;
    launch_early(cuda, "argmax", Grid(dim3(neighbours, unsigned(logits.shape[0])), neighbours), threads, 0, likeliest<n.value>, at<int>(ids), at<const float>(logits), vocab);
  });
}

}  // namespace thimble::ops
