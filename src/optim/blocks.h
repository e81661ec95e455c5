// Walks the blocks of many tensors in one parallel loop. Blocks never cross tensors, and what happens in a block depends on the block
// alone, so results do not depend on the thread count. Internal to optim.
#pragma once
#include <algorithm>
#include <bit>

#include "base/threads.h"
#include "optim/optimizer.h"
#include "optim/stochastic_rounding.h"

namespace thimble::optim {

// f(update, first element, elements) for each block of `size` elements; the last block of a tensor may be shorter.
template <class F>
void for_blocks(std::span<const Update> updates, int64_t size, int64_t grain, F&& f) {
  const auto blocks_of = [&](const Update& u) { return (u.param.count() + size - 1) / size; };
  int64_t all = 0;
  for (const Update& u : updates) all += blocks_of(u);
  parallel_for(all, grain, [&](int64_t begin, int64_t end) {
    int64_t before = 0;  // blocks of the tensors passed so far
    for (const Update& u : updates) {
      if (before >= end) break;
      const int64_t blocks = blocks_of(u);
      for (int64_t b = std::max<int64_t>(0, begin - before); b < std::min(blocks, end - before); ++b)
        f(u, b * size, std::min(size, u.param.count() - b * size));
      before += blocks;
    }
  });
}

inline Draws16 draws_of(const Update& u, const float* scalars) {
  const auto bits = [&](Scalar s) { return std::bit_cast<uint32_t>(scalars[s]); };
  return {uint64_t{bits(seed_high)} << 32 | bits(seed_low), bits(step_number), u.place};
}

// g[i] = the i-th number of u's gradient from element `first` on, as the rule takes it: in bf16 where the parameter is.
inline void read_gradient(float* g, const Update& u, int64_t first, int64_t n) {
  if (u.grad.dtype == DType::bf16) {
    const bf16* from = u.grad.get<bf16>() + first;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) g[i] = float(from[i]);
  } else {
    const float* from = u.grad.get<float>() + first;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) g[i] = float(bf16(from[i]));
  }
}

// f(p): the n elements of u's parameter from `first` on, a multiple of draw_group, n at most that, as f32 numbers to change: where they lie, or a copy, which is
// rounded back.
template <class F>
void change_values(const Update& u, int64_t first, int64_t n, const float* scalars, F&& f) {
  if (u.param.dtype == DType::f32) return f(u.param.get<float>() + first);
  alignas(64) float p[draw_group];
  bf16* const home = u.param.get<bf16>() + first;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) p[i] = float(home[i]);
  f(p);
  round_stochastically(home, p, first, n, draws_of(u, scalars));
}

// f(update, p, g, first element, elements) for each block of `size` elements, a divisor of draw_group: p and g begin at the block, as f32 numbers.
template <class F>
void for_values(std::span<const Update> updates, int64_t size, const float* scalars, F&& f) {
  constexpr int64_t grain = 4;
  for_blocks(updates, draw_group, grain, [&](const Update& u, int64_t first, int64_t n) {
    change_values(u, first, n, scalars, [&](float* p) {
      alignas(64) float rounded[draw_group];
      const bool as_it_lies = u.param.dtype == DType::f32;
      if (!as_it_lies) read_gradient(rounded, u, first, n);
      const float* g = as_it_lies ? u.grad.get<float>() + first : rounded;
      for (int64_t at = 0; at < n; at += size) f(u, p + at, g + at, first + at, std::min(size, n - at));
    });
  });
}

}  // namespace thimble::optim
