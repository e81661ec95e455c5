// Attention of a few queries over a long cache, as blocks do it: the keys are split among them, so that even one token keeps the whole card reading.
// Each leaves its share of the softmax's sums (Dao et al. 2023, "Flash-Decoding"). Neighbours read each other's shared memory where they can (compute
// capability 9); what is left of more of them, the last one of a head's adds up, in order, so that bits repeat.
#pragma once
#include "device/neighbours.cuh"
#include "ops/attention_cuda.cuh"

namespace thimble::ops {

constexpr int few_channels = 8;  // of a lane

// The sums of a set of keys for one query: of exp2(score - most), and of these times v.
struct Sums {
  float most = -INFINITY, total = 0;
  __device__ float shrink_to(float now) const { return most == -INFINITY ? 0.0f : power_of_two(most - now); }
};

// The queries, and the token's own key and value (D), where they lie apart from the tensors.
struct FewApart { const __nv_bfloat16 *query = nullptr, *key = nullptr, *value = nullptr; };

// Loads of `at_once` keys are under way together. Of a token's queries, `heads` (up to G) that share a key/value head, over each slots-th key from begin + slot to stop: a set to each of a warp's
// groups of D / 8 lanes, then one for the warp.
// apart: the token's own key and value are those of `own`.
template <int D, int G, int at_once, bool apart>
__device__ __forceinline__ void walk(const AttentionRun& a, const __nv_bfloat16* q, const FewApart& own, const __nv_bfloat16* k, const __nv_bfloat16* v, int group, int heads, int begin, int stop,
                                     int slot, int slots, Sums (&of)[G], float (&value)[G][few_channels]) {
  constexpr int lanes = D / few_channels;
  const int lane = int(threadIdx.x) % lanes;
  const float scale = a.scale * (a.cap > 0 ? 1 / a.cap : log2_e);
  Pack<__nv_bfloat16, few_channels> query[G];
#pragma unroll
  for (int g = 0; g < G; ++g) {
    query[g] = load_pack<few_channels>(q + min(g, heads - 1) * D + lane * few_channels);
    of[g] = {};
#pragma unroll
    for (int c = 0; c < few_channels; ++c) value[g][c] = 0;
  }
  for (int first = begin; first < stop; first += at_once * slots) {  // as often for every lane: they add up scores together
    const int key = first + slot;
    Pack<__nv_bfloat16, few_channels> keys[at_once], values[at_once];
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const int of_slot = min(key + u * slots, stop - 1);
      const int64_t at = a.key(group, of_slot) + lane * few_channels;
      const bool is_own = apart && of_slot == a.first;
      keys[u] = load_pack<few_channels>(is_own ? own.key + lane * few_channels : k + at), values[u] = load_pack<few_channels>(is_own ? own.value + lane * few_channels : v + at);
    }
    float score[G][at_once];
#pragma unroll
    for (int u = 0; u < at_once; ++u)
#pragma unroll
      for (int g = 0; g < G; ++g) {
        float sum = 0;
#pragma unroll
        for (int c = 0; c < few_channels; ++c) sum = fmaf(float(query[g].at[c]), float(keys[u].at[c]), sum);
#pragma unroll
        for (int d = lanes / 2; d > 0; d /= 2) sum += shuffle_xor(sum, d);
        sum *= scale;
        if (a.cap > 0) sum = a.cap * log2_e * exact_tanh(sum);
        score[g][u] = key + u * slots < stop ? sum : -INFINITY;
      }
#pragma unroll
    for (int g = 0; g < G; ++g) {
      float now = of[g].most;
#pragma unroll
      for (const float x : score[g]) now = fmaxf(now, x);
      const float shrink = of[g].shrink_to(now), shift = now == -INFINITY ? 0.0f : now;
      of[g].most = now;
      of[g].total *= shrink;
#pragma unroll
      for (int c = 0; c < few_channels; ++c) value[g][c] *= shrink;
#pragma unroll
      for (float& x : score[g]) x = power_of_two(x - shift), of[g].total += x;
    }
#pragma unroll
    for (int u = 0; u < at_once; ++u)
#pragma unroll
      for (int g = 0; g < G; ++g)
#pragma unroll
        for (int c = 0; c < few_channels; ++c) value[g][c] = fmaf(score[g][u], float(values[u].at[c]), value[g][c]);
  }
#pragma unroll
  for (int g = 0; g < G; ++g)
#pragma unroll
    for (int d = lanes; d < 32; d *= 2) {
      const float most = fmaxf(of[g].most, shuffle_xor(of[g].most, d)), shrink = of[g].shrink_to(most);
      of[g].most = most;
      of[g].total *= shrink;
      of[g].total += shuffle_xor(of[g].total, d);
#pragma unroll
      for (int c = 0; c < few_channels; ++c) value[g][c] *= shrink, value[g][c] += shuffle_xor(value[g][c], d);
    }
}

// What n sets, of which so many are read at once, say of one query's channel c. A set: D sums of v, the largest score, the sum of weights.
template <int D, int at_once, class F>
__device__ __forceinline__ float merged(int n, int c, Sums& s, F&& set) {
#pragma unroll at_once
  for (int i = 0; i < n; ++i) s.most = fmaxf(s.most, set(i)[D]);
  float sum = 0;
#pragma unroll at_once
  for (int i = 0; i < n; ++i) {
    const Sums one{set(i)[D], set(i)[D + 1]};
    const float shrink = one.shrink_to(s.most);
    s.total += one.total * shrink;
    sum += set(i)[c] * shrink;
  }
  return sum;
}

// Counts one more; what came before is there for those who count later, and before this what they did.
__device__ __forceinline__ unsigned add_in_order(unsigned* p) {
  unsigned before = 0;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(p) : "memory");
  return before;
}

// What a block has to do: `heads` queries of a token that share a key/value head, one of `splits` shares of their keys.
struct FewTask {
  int token, group, head, heads, split, splits;
  unsigned* arrived;  // how many of these shares are done; back at 0 after all
};
template <int D, int G, int warps>
struct FewMemory {
  float sums[warps][G][D + 2], of_block[G][D + 2];
  bool last;
};
struct FewTensors {
  __nv_bfloat16* y;
  float *lse, *partial;  // lse may be null
  const __nv_bfloat16 *q, *k, *v;
};
// By 32 * warps threads, the block's first, who meet() and, with those of near - 1 neighbours, meet_all(). low: the first key that the token sees.
// None may be gone before its neighbours have come to the end.
template <int at_once, bool apart = false, int D, int G, int warps, class Meet, class MeetAll>
__device__ __forceinline__ void attend(FewMemory<D, G, warps>& memory, const AttentionRun& a, const FewTensors& t, const FewTask& task, int low, int near, Meet&& meet, MeetAll&& meet_all,
                                       const FewApart& own = {}) {
  constexpr int lanes = D / few_channels, slots = warps * 32 / lanes, row = D + 2;
  const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int end = a.first + task.token + 1, share = ((end - low + task.splits - 1) / task.splits + slots - 1) / slots * slots;
  const int begin = low + task.split * share, stop = min(end, begin + share), vector = task.token * a.heads + task.head;
  Sums of[G];
  float value[G][few_channels];
  walk<D, G, at_once, apart>(a, apart ? own.query : t.q + int64_t{vector} * D, own, t.k, t.v, task.group, task.heads, begin, stop, thread / lanes, slots, of, value);
  if (lane < lanes)
#pragma unroll
    for (int g = 0; g < G; ++g) {
      float* const set = memory.sums[warp][g];
#pragma unroll
      for (int c = 0; c < few_channels; ++c) set[lane * few_channels + c] = value[g][c];
      if (lane == 0) set[D] = of[g].most, set[D + 1] = of[g].total;
    }
  meet();
  const auto finish = [&](int h, int c, const Sums& s, float sum) {
    t.y[int64_t{vector + h} * D + c] = __nv_bfloat16(sum / s.total);
    if (t.lse && c == 0) t.lse[int64_t{task.head + h} * a.tokens + task.token] = s.most / log2_e + logf(s.total);
  };
  const auto leave = [&](float* set, int c, const Sums& s, float sum) {
    set[c] = sum;
    if (c == 0) set[D] = s.most, set[D + 1] = s.total;
  };
  const Neighbours neighbours;
  const int far = task.splits / near;
  const auto place = [&](int h) { return t.partial + int64_t{vector + h} * far * row; };
  const auto hand_on = [&](int h, int c, const Sums& s, float sum) { far == 1 ? finish(h, c, s, sum) : leave(place(h) + task.split / near * row, c, s, sum); };
  for (int i = thread; i < task.heads * D; i += 32 * warps) {
    const int h = i / D, c = i % D;
    Sums s;
    const float sum = merged<D, warps>(warps, c, s, [&](int n) { return memory.sums[n][h]; });
    near == 1 ? hand_on(h, c, s, sum) : leave(memory.of_block[h], c, s, sum);
  }
  if (near > 1) {
    meet_all();
    for (int i = neighbours.rank() * 32 * warps + thread; i < task.heads * D; i += near * 32 * warps) {
      const int h = i / D, c = i % D;
      Sums s;
      const float sum = merged<D, 2>(near, c, s, [&](int rank) { return neighbours.of(rank, memory.of_block[h]); });
      hand_on(h, c, s, sum);
    }
  }
  if (far == 1) return;
  meet();
  if (thread == 0) memory.last = add_in_order(task.arrived) + 1 == unsigned(task.splits);
  meet();
  if (!memory.last) return;
  if (thread == 0) *task.arrived = 0;
  for (int i = thread; i < task.heads * D; i += 32 * warps) {
    const int h = i / D, c = i % D;
    Sums s;
    const float sum = merged<D, 4>(far, c, s, [&](int n) { return place(h) + n * row; });
    finish(h, c, s, sum);
  }
}

}  // namespace thimble::ops
