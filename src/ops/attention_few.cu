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

// A token of each of several sequences. Each has as many splits as alone: blocks that it has no use for only meet their neighbours.
constexpr int most_sequences = 64;  // of a launch
struct Sequences {
  struct Sequence { bf16_t *keys, *values; int first, splits; };
  Sequence of[most_sequences];
  const bf16_t *k, *v;  // the tokens' own
};
template <int D, int G>
__global__ void __launch_bounds__(32 * warps) attend_sequences(AttentionRun a, FewTensors tensors, const __grid_constant__ Sequences sequences) {
  __shared__ FewMemory<D, G, warps> memory;
  let_later_begin();
  const int chunks = (a.per_group + G - 1) / G, group = int(blockIdx.y) / chunks, head = group * a.per_group + int(blockIdx.y) % chunks * G, of = int(blockIdx.z);
  const Sequences::Sequence& own = sequences.of[of];
  a.first = own.first, a.start += of;
  const int64_t vectors = int64_t{of} * a.heads;
  tensors = {tensors.y + vectors * D, nullptr, tensors.partial + vectors * gridDim.x * (D + 2), tensors.q + vectors * D, own.keys, own.values};
  const FewTask task{.token = 0, .group = group, .head = head, .heads = min(G, (group + 1) * a.per_group - head), .split = int(blockIdx.x), .splits = own.splits,
                     .arrived = &arrived[blockIdx.z * gridDim.y + blockIdx.y]};
  const Neighbours neighbours;
  const int near = min(neighbours.count(), own.splits);
  wait_for_earlier();
  if (task.split < own.splits) {
    const int64_t row = (int64_t{of} * a.groups + group) * D;
    const FewApart last{tensors.q + head * D, sequences.k + row, sequences.v + row};
    if (task.split == 0 && head == group * a.per_group)  // for tokens to come
      for (int c = int(threadIdx.x); c < D; c += 32 * warps) own.keys[a.key(group, a.first) + c] = last.key[c], own.values[a.key(group, a.first) + c] = last.value[c];
    attend<4, true>(memory, a, tensors, task, a.low(0), near, [] { __syncthreads(); }, [&] { neighbours.meet(); }, last);
  } else if (near > 1) {
    neighbours.meet();
  }
  if (neighbours.count() > 1) neighbours.meet();
}

// f(D, G) as types.
template <class F>
void visit_heads(int64_t dim, int per_group, F&& f) {
  const auto with = [&]<int D>(std::integral_constant<int, D> d) {
    if (per_group == 1) f(d, std::integral_constant<int, 1>{});
    else if (per_group <= 4) f(d, std::integral_constant<int, 4>{});
    else f(d, std::integral_constant<int, 8>{});
  };
  switch (dim) {
    case 64: return with(std::integral_constant<int, 64>{});
    case 128: return with(std::integral_constant<int, 128>{});
    default: return with(std::integral_constant<int, 256>{});
  }
}

template <class... T>
void launch_attention(CudaContext& cuda, const AttentionRun& a, int G, int64_t splits, int64_t tokens, void (*kernel)(T...), const auto&... rest) {
  const dim3 grid(unsigned(splits), unsigned(a.groups * ((a.per_group + G - 1) / G)), unsigned(tokens));
  check(int64_t{grid.y} * grid.z <= int64_t(std::size(arrived)), "attention: a counter to each token and chunk of heads");
  launch_early(cuda, "attention", {grid, cuda.capability >= 90 ? std::min(grid.x, most_neighbours) : 1u}, 32 * warps, 0, kernel, a, rest...);
}

}  // namespace

void attention_few_cuda(CudaContext& cuda, Tensor partial, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  check(aligned_16(q, k, v), "attention: vectors of heads are aligned");
  const AttentionRun a = attention_run(q, k, shape);
  const FewTensors tensors{at<bf16_t>(y), at<float>(lse), at<float>(partial), at<const bf16_t>(q), at<const bf16_t>(k), at<const bf16_t>(v)};
  visit_heads(a.dim, a.per_group, [&](auto D, auto G) { launch_attention(cuda, a, G, attention_few_splits(a.first + a.tokens), a.tokens, attend_few<D.value, G.value>, tensors); });
}

void attention_sequences_cuda(CudaContext& cuda, Tensor partial, Tensor y, Tensor q, Tensor k, Tensor v, std::span<const Cached> all, const AttentionShape& shape) {
  const int64_t tokens = q.shape[0];
  for (int64_t first = 0; first < tokens; first += most_sequences) {
    const int64_t n = std::min<int64_t>(most_sequences, tokens - first);
    AttentionShape own = shape;
    own.start = shape.start.rows(first, n);
    const Tensor from = q.rows(first, n), to = y.rows(first, n), last = k.rows(first, n), last_value = v.rows(first, n);
    const AttentionRun a = attention_run(from, k, own);
    Sequences sequences{.k = at<const bf16_t>(last), .v = at<const bf16_t>(last_value)};
    check(aligned_16(from, last, last_value), "attention: vectors of heads are aligned");
    for (int64_t i = 0; i < n; ++i) {
      const auto& [keys, values, before] = all[size_t(first + i)];
      check(aligned_16(keys, values), "attention: vectors of heads are aligned");
      sequences.of[i] = {at<bf16_t>(keys), at<bf16_t>(values), int(before), int(attention_few_splits(before + 1))};
    }
    const FewTensors tensors{at<bf16_t>(to), nullptr, at<float>(partial), at<const bf16_t>(from), nullptr, nullptr};
    visit_heads(a.dim, a.per_group, [&](auto D, auto G) { launch_attention(cuda, a, G, partial.shape[2], n, attend_sequences<D.value, G.value>, tensors, sequences); });
  }
}

}  // namespace thimble::ops
