// Which calls of attention have few queries and many keys on cuda, and what scratch these take: decided by shapes alone, so plan and run agree.
#pragma once
#include <algorithm>
#include <bit>

#include "ops/attention.h"

namespace thimble::ops {

// Blocks that share the keys of one head: a power of two.
inline int64_t attention_few_splits(int64_t keys) { return int64_t(std::bit_floor(uint64_t(std::clamp<int64_t>(keys / 32, 1, 32)))); }

// One token alone, or up to eight behind a cache: backward never sees the latter.
inline bool attention_is_few(const DeviceSpec& spec, Tensor q, Tensor k, const AttentionShape& a) {
  const int64_t tokens = q.shape[0], dim = q.shape[2];
  return spec.kind == DeviceKind::cuda && q.dtype == DType::bf16 && (dim == 64 || dim == 128 || dim == 256) && (tokens == 1 || (tokens <= 8 && a.first > 0)) &&
         k.shape[0] * k.shape[1] < (int64_t{1} << 31);
}
// (T, H, splits, D + 2) f32: sums of v, the largest score, sum of the weights.
inline Shape attention_few_partial(Tensor q, const AttentionShape& a) {
  return {q.shape[0] * q.shape[1], attention_few_splits(a.first + q.shape[0]), q.shape[2] + 2};
}

// What each of several sequences needs of it, by the most keys that one has.
inline Shape attention_few_partial(Tensor q, std::span<const Cached> all) {
  int64_t first = 0;
  for (const Cached& c : all) first = std::max(first, c.first);
  return {q.shape[0], q.shape[1], attention_few_splits(first + 1), q.shape[2] + 2};
}

}  // namespace thimble::ops
