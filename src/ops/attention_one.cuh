// Attention of one token as a stage of a kernel whose blocks wait for each other (linear_one.cu): a block has one head and one of `splits` shares of its keys.
// (Two heads that share keys took a block twice as long: a warp's sums wait for each other, and not for keys.)
#pragma once
#include <algorithm>

#include "device/bulk.cuh"
#include "ops/attention_few.cuh"
#include "ops/attention_few.h"
#include "ops/floats.cuh"
#include "ops/head_norm.cuh"
#include "ops/linear_one.h"

namespace thimble::ops {

struct Attending {
  AttentionRun run;
  FewTensors tensors;
  int splits;
  struct Heads {  // where they are to be normed and turned first
    Floats weight[2];  // of queries, of keys
    float eps, offset, factor;
    const int32_t* position;
    const float* inv_freq;
    const __nv_bfloat16* last;  // the token's own keys as their product left them, and where they go; null: heads are as they must be
    __nv_bfloat16* cached;
  } heads;
};
template <int dim, int warps>
struct AttendingMemory {
  FewMemory<dim, 1, warps> few;
  alignas(16) __nv_bfloat16 row[2][dim], head[2][dim];  // of the query, of the token's own key
  float2 angle[dim / 2];
};
template <int warps> struct AttendingMemory<0, warps> {};

static __device__ unsigned attended[most_attending_heads];  // blocks that are done with their share of keys, by head

// Keys and values come to the second cache while products are made that need nothing of them, as many as leave room there.
__device__ inline void prefetch_keys(const AttentionRun& a, const FewTensors& t, int lane) {
  constexpr int64_t most = 8 << 20;
  const int row = a.groups * a.dim, low = max(0, a.first - a.reach);
  const int64_t bytes = min(int64_t{a.first - low} * row * 2, most), first = bytes / 16 * blockIdx.x / gridDim.x * 16, end = bytes / 16 * (blockIdx.x + 1) / gridDim.x * 16;
  if (lane < 2 && first < end) bulk_prefetch(reinterpret_cast<const char*>((lane == 0 ? t.k : t.v) + int64_t{low} * row) + first, uint32_t(end - first));
}

// By the block's first 32 * warps threads, who meet(). What needs no query comes before wait_for_q(), which is a meeting too.
// normed: every block makes its query and the token's own key for itself, the first head's of a group leaves the key for tokens to come.
template <int dim, bool normed, int warps, class Meet, class Wait>
__device__ __forceinline__ void attend(AttendingMemory<dim, warps>& memory, const Attending& of, Meet&& meet, Wait&& wait_for_q) {
  const AttentionRun& a = of.run;
  const Attending::Heads& heads = of.heads;
  const int low = a.low(0), thread = int(threadIdx.x), warp = thread / 32;
  if (normed && thread < dim / 2) memory.angle[thread] = angle_of(float(*heads.position), heads.inv_freq[thread], heads.factor);
  wait_for_q();
  for (int task = int(blockIdx.x); task < a.heads * of.splits; task += int(gridDim.x)) {
    const int head = task / of.splits;
    const FewTask own{.token = 0, .group = head / a.per_group, .head = head, .heads = 1, .split = task % of.splits, .splits = of.splits, .arrived = &attended[head]};
    if (normed) {
      if (warp < 2) {
        const bool leaves = warp == 1 && head % a.per_group == 0 && own.split == 0;
        norm_and_turn(memory.row[warp], warp == 0 ? of.tensors.q + head * dim : heads.last + own.group * dim, dim, dim / 2, heads.eps,
                      [&](int c) { return heads.weight[warp][c] + heads.offset; }, [&](int c) { return memory.angle[c]; }, [&](int c, __nv_bfloat16 x) {
          memory.head[warp][c] = x;
          if (leaves) heads.cached[own.group * dim + c] = x;
        });
      }
      meet();
    }
    attend<6, normed>(memory.few, a, of.tensors, own, low, 1, meet, [] {}, {memory.head[0], memory.head[1], of.tensors.v + a.key(own.group, a.first)});
    meet();  // before the next is begun
  }
}

// Few keys are not split: the last of several blocks would have to wait for the others.
inline int splits_of(const AttentionRun& a, int blocks) {
  const int keys = std::min(a.first, a.reach) + 1;
  return keys <= 192 ? 1 : std::clamp(blocks / a.heads, 1, keys / 64);
}

}  // namespace thimble::ops
