// Attention of a few queries over a long cache: the keys are split among blocks, so that even one token keeps the whole card reading. Each block
// leaves its share of the softmax's sums (Dao et al. 2023, "Flash-Decoding"). Up to eight neighbours read each other's shared memory where they can
// (compute capability 9); what is left of more of them, the last one of a head's adds up, in order, so that bits repeat.
#include <cooperative_groups.h>

#include "ops/attention_cuda.cuh"
#include "ops/attention_few.h"

namespace thimble::ops {
namespace {

using bf16_t = __nv_bfloat16;
constexpr int channels = 8, at_once = 4;  // of a lane; keys whose loads are under way together
constexpr int warps = 4;  // few, so that blocks of the product that comes next fit beside them

// Neighbouring blocks that read each other's shared memory: how many, which one this is, a barrier of them all, and where another has what lies at p here.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 900
struct Neighbours {
  __device__ int count() const { return 1; }
  __device__ int rank() const { return 0; }
  __device__ void meet() const { __syncthreads(); }
  __device__ const float* of(int, const float* p) const { return p; }
};
#else
struct Neighbours {
  __device__ int count() const { return int(cooperative_groups::this_cluster().num_blocks()); }
  __device__ int rank() const { return int(cooperative_groups::this_cluster().block_rank()); }
  __device__ void meet() const { cooperative_groups::this_cluster().sync(); }
  __device__ const float* of(int rank, float* p) const { return cooperative_groups::this_cluster().map_shared_rank(p, rank); }
};
#endif

__device__ unsigned arrived[1 << 16];  // blocks that are done, by token and chunk of heads; back at 0 after each kernel

// The sums of a set of keys for one query: of exp2(score - most), and of these times v. Sets are merged in a fixed order.
struct Sums {
  float most = -INFINITY, total = 0;
  __device__ float shrink_to(float now) const { return most == -INFINITY ? 0.0f : power_of_two(most - now); }
};

// G queries of one token that share a key/value head; D channels of a head, 8 to a lane.
template <int D, int G>
__global__ void __launch_bounds__(32 * warps) attend_few(AttentionRun a, bf16_t* y, float* lse, float* partial, const bf16_t* q, const bf16_t* k, const bf16_t* v) {
  constexpr int lanes = D / channels, of_warp = 32 / lanes, slots = warps * of_warp, row = D + 2;
  __shared__ float sums[slots][G][row], block_sums[G][row];
  let_later_begin();
  const int splits = int(gridDim.x), split = int(blockIdx.x), chunks = (a.per_group + G - 1) / G, token = int(blockIdx.z);
  const int group = int(blockIdx.y) / chunks, head = group * a.per_group + int(blockIdx.y) % chunks * G, heads = min(G, (group + 1) * a.per_group - head);
  const int lane = int(threadIdx.x) % lanes, slot = int(threadIdx.x) / lanes;
  wait_for_earlier();
  const int low = a.low(token), end = a.first + token + 1, share = ((end - low + splits - 1) / splits + slots - 1) / slots * slots;
  const int begin = low + split * share, stop = min(end, begin + share);

  const float inverse_cap = a.cap > 0 ? 1.0f / a.cap : 0.0f;
  float query[G][channels], value[G][channels] = {};
  Sums of[G];
#pragma unroll
  for (int g = 0; g < G; ++g) {
    const auto from = load_pack<channels>(q + (int64_t{token} * a.heads + head + min(g, heads - 1)) * D + lane * channels);
#pragma unroll
    for (int c = 0; c < channels; ++c) query[g][c] = float(from.at[c]) * a.scale * (a.cap > 0 ? 1.0f : log2_e);
  }
  for (int first = begin; first < stop; first += at_once * slots) {  // as often for every lane: they add up scores together
    const int key = first + slot;
    Pack<bf16_t, channels> keys[at_once], values[at_once];
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int64_t at = a.key(group, min(key + u * slots, stop - 1)) + lane * channels;
      keys[u] = load_pack<channels>(k + at), values[u] = load_pack<channels>(v + at);
    }
#pragma unroll
    for (int g = 0; g < G; ++g) {
      float score[at_once], now = of[g].most;
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        score[u] = 0;
#pragma unroll
        for (int c = 0; c < channels; ++c) score[u] = fmaf(query[g][c], float(keys[u].at[c]), score[u]);
#pragma unroll
        for (int d = lanes / 2; d > 0; d /= 2) score[u] += __shfl_xor_sync(~0u, score[u], d);
        if (a.cap > 0) score[u] = a.cap * log2_e * exact_tanh(score[u] * inverse_cap);
        if (key + u * slots >= stop) score[u] = -INFINITY;
        now = fmaxf(now, score[u]);
      }
      const float shrink = of[g].shrink_to(now), shift = now == -INFINITY ? 0.0f : now;
      of[g].most = now;
      of[g].total *= shrink;
#pragma unroll
      for (int c = 0; c < channels; ++c) value[g][c] *= shrink;
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        const float p = power_of_two(score[u] - shift);
        of[g].total += p;
#pragma unroll
        for (int c = 0; c < channels; ++c) value[g][c] = fmaf(p, float(values[u].at[c]), value[g][c]);
      }
    }
  }
#pragma unroll
  for (int g = 0; g < G; ++g) {
#pragma unroll
    for (int c = 0; c < channels; ++c) sums[slot][g][lane * channels + c] = value[g][c];
    if (lane == 0) sums[slot][g][D] = of[g].most, sums[slot][g][D + 1] = of[g].total;
  }
  __syncthreads();

  // What n sets say of one query's channel c.
  const auto merged = [&](int n, int c, Sums& s, auto&& set) {
#pragma unroll 8
    for (int i = 0; i < n; ++i) s.most = fmaxf(s.most, set(i)[D]);
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < n; ++i) {
      const Sums one{set(i)[D], set(i)[D + 1]};
      const float shrink = one.shrink_to(s.most);
      s.total += one.total * shrink;
      sum += set(i)[c] * shrink;
    }
    return sum;
  };
  const auto finish = [&](int g, int c, const Sums& s, float sum) {
    y[(int64_t{token} * a.heads + head + g) * D + c] = bf16_t(sum / s.total);
    if (lse && c == 0) lse[int64_t{head + g} * a.tokens + token] = s.most / log2_e + logf(s.total);
  };
  const auto leave = [&](float* set, int c, const Sums& s, float sum) {
    set[c] = sum;
    if (c == 0) set[D] = s.most, set[D + 1] = s.total;
  };
  const Neighbours neighbours;
  const int near = neighbours.count(), far = splits / near;
  const auto place = [&](int g) { return partial + (int64_t{token} * a.heads + head + g) * splits * row; };
  for (int i = int(threadIdx.x); i < heads * D; i += 32 * warps) {
    Sums s;
    const float sum = merged(slots, i % D, s, [&](int slot) { return sums[slot][i / D]; });
    if (splits == 1) finish(i / D, i % D, s, sum);
    else leave(block_sums[i / D], i % D, s, sum);
  }
  if (splits == 1) return;
  neighbours.meet();
  for (int i = neighbours.rank() * 32 * warps + int(threadIdx.x); i < heads * D; i += near * 32 * warps) {
    const int g = i / D, c = i % D;
    Sums s;
    const float sum = merged(near, c, s, [&](int rank) { return neighbours.of(rank, block_sums[g]); });
    if (far == 1) finish(g, c, s, sum);
    else leave(place(g) + split / near * row, c, s, sum);
  }
  neighbours.meet();  // none is gone before the others have read from it
  if (far == 1) return;
  __threadfence();
  __syncthreads();
  __shared__ bool last;
  unsigned& count = arrived[blockIdx.z * gridDim.y + blockIdx.y];
  if (threadIdx.x == 0) last = atomicAdd(&count, 1) + 1 == unsigned(splits);
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) count = 0;
  for (int i = int(threadIdx.x); i < heads * D; i += 32 * warps) {
    Sums s;
    const float sum = merged(far, i % D, s, [&](int n) { return place(i / D) + n * row; });
    finish(i / D, i % D, s, sum);
  }
}

template <int D>
void run(CudaContext& cuda, Tensor partial, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  const AttentionRun a = attention_run(q, k, shape);
  const auto go = [&]<int G>(std::integral_constant<int, G>) {
    const dim3 grid(unsigned(attention_few_splits(a.first + a.tokens)), unsigned(a.groups * ((a.per_group + G - 1) / G)), unsigned(a.tokens));
    check(int64_t{grid.y} * grid.z <= int64_t(std::size(arrived)), "attention: a counter to each token and chunk of heads");
    launch_early(cuda, "attention", {grid, cuda.capability >= 90 ? std::min(grid.x, 8u) : 1u}, 32 * warps, 0, attend_few<D, G>, a, at<bf16_t>(y), at<float>(lse), at<float>(partial), at<const bf16_t>(q), at<const bf16_t>(k), at<const bf16_t>(v));
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
