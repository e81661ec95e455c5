// Attention of a few queries as a kernel of its own.
#include "ops/attention_few.cuh"
#include "ops/attention_few.h"

namespace thimble::ops {
namespace {

using bf16_t = __nv_bfloat16;
constexpr int warps = 4;  // few, so that blocks of the product that comes next fit beside them

__device__ unsigned arrived[1 << 16];  // blocks that are done, by token and chunk of heads; back at 0 after each kernel

// G queries of one token that share a key/value head; D channels of a head.
template <int D, int G>
__global__ void __launch_bounds__(32 * warps) attend_few(AttentionRun a, FewTensors tensors) {
  __shared__ FewMemory<D, G, warps> memory;
  let_later_begin();
  const int chunks = (a.per_group + G - 1) / G, group = int(blockIdx.y) / chunks, head = group * a.per_group + int(blockIdx.y) % chunks * G;
  const FewTask task{.token = int(blockIdx.z), .group = group, .head = head, .heads = min(G, (group + 1) * a.per_group - head), .split = int(blockIdx.x), .splits = int(gridDim.x),
                     .arrived = &arrived[blockIdx.z * gridDim.y + blockIdx.y]};
  const Neighbours neighbours;
  wait_for_earlier();
  attend<4>(memory, a, tensors, task, a.low(task.token), neighbours.count(), [] { __syncthreads(); }, [&] { neighbours.meet(); });
  if (neighbours.count() > 1) neighbours.meet();
}

template <int D>
void run(CudaContext& cuda, Tensor partial, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  const AttentionRun a = attention_run(q, k, shape);
  const auto go = [&]<int G>(std::integral_constant<int, G>) {
    const dim3 grid(unsigned(attention_few_splits(a.first + a.tokens)), unsigned(a.groups * ((a.per_group + G - 1) / G)), unsigned(a.tokens));
    check(int64_t{grid.y} * grid.z <= int64_t(std::size(arrived)), "attention: a counter to each token and chunk of heads");
    const FewTensors tensors{at<bf16_t>(y), at<float>(lse), at<float>(partial), at<const bf16_t>(q), at<const bf16_t>(k), at<const bf16_t>(v)};
    launch_early(cuda, "attention", {grid, cuda.capability >= 90 ? std::min(grid.x, 8u) : 1u}, 32 * warps, 0, attend_few<D, G>, a, tensors);
  };
  if (a.per_group == 1) go(std::integral_constant<int, 1>{});
  else if (a.per_group <= 4) go(std::integral_constant<int, 4>{});
  else go(std::integral_constant<int, 8>{});
}

}  // namespace

void attention_few_cuda(CudaContext& cuda, Tensor partial, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  check(aligned_16(q, k, v), "attention: vectors of heads are aligned");
  switch (q.shape[2]) {
    case 64: return run<64>(cuda, partial, y, lse, q, k, v, shape);
    case 128: return run<128>(cuda, partial, y, lse, q, k, v, shape);
    default: return run<256>(cuda, partial, y, lse, q, k, v, shape);
  }
}

}  // namespace thimble::ops
