// A row by neighbouring blocks; each thread has tokens that follow each other. An edge is found by quartering the range of scores in which it lies, 16
// times at most, each time with what all weigh down to each quarter's end; it is found where but one token is left.
#include "device/kernel.cuh"
#include "device/neighbours.cuh"
#include "ops/draw.h"
#include "ops/draw_law.h"

namespace thimble::ops {
namespace {

constexpr int threads = 1024;

// Scores as whole numbers of the same order.
constexpr uint32_t no_score = ~0u;
__device__ __forceinline__ uint32_t key_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);  // of zeros there is one
  return isfinite(x) ? bits ^ (int32_t(bits) < 0 ? ~0u : 1u << 31) : no_score;
}
__device__ __forceinline__ float score_of(uint32_t key) { return __uint_as_float(key ^ (int32_t(key) < 0 ? 1u << 31 : ~0u)); }

struct Larger { __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return a > b ? a : b; } };

constexpr int most_at_once = 4;
struct Memory { uint64_t of_warp[most_at_once][threads / 32], of_block[2][most_at_once], of_all[most_at_once], below; };

// Of what every thread of every block has: the sum, or the largest; of n such at once. Nothing is 0.
struct Together {
  Memory& memory;
  Neighbours neighbours;
  int turn = 0;  // a block has two places, since neighbours may still read one
  template <int n, class F>
  __device__ void operator()(uint64_t (&x)[n], F f) {
    static_assert(threads == 32 * 32);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
#pragma unroll
    for (int k = 0; k < n; ++k) {
      x[k] = warp_reduce(x[k], f);
      if (lane == 0) memory.of_warp[k][warp] = x[k];
    }
    __syncthreads();
    if (warp < n) {
      const uint64_t sum = warp_reduce(memory.of_warp[warp][lane], f);
      if (lane == 0) memory.of_block[turn][warp] = sum;
    }
    neighbours.meet();
    if (warp < n) {
      const int rank = neighbours.rank();
      const uint64_t theirs = lane < neighbours.count() ? *neighbours.of(lane, &memory.of_block[turn][warp]) : 0;
      const uint64_t all = warp_reduce(theirs, f), below = warp_reduce(lane < rank ? theirs : 0, f);
      if (lane == 0) memory.of_all[warp] = all;
      if (lane == 0 && warp == 0) memory.below = below;  // of the blocks before this one
    }
    __syncthreads();
    turn ^= 1;
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] = memory.of_all[k];
  }
  template <class F>
  __device__ uint64_t operator()(uint64_t x, F f) {
    uint64_t one[1] = {x};
    (*this)(one, f);
    return one[0];
  }
};

// What the threads before this one, of this block, have.
__device__ uint64_t sum_before(Memory& memory, uint64_t own) {
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  uint64_t sum = own;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint64_t x = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += x;
  }
  if (lane == 31) memory.of_warp[0][warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += memory.of_warp[0][w];
  return sum - own;
}

constexpr int most_rows = 32;  // of a launch
struct Rows {
  struct Row { int64_t row, top_k; double top_p; uint64_t random; double edge; float scale; };
  Row of[most_rows];
};
// By all blocks of a y.
template <int N>
__global__ void __launch_bounds__(threads) draw_rows(int* ids, const float* logits, int64_t vocab, int64_t each, const __grid_constant__ Rows rows) {
  __shared__ Memory memory;
  const Rows::Row& how = rows.of[blockIdx.y];
  const float* const row = logits + how.row * vocab;
  Together together{memory, {}};
  const int64_t first = min(vocab, (int64_t{together.neighbours.rank()} * threads + threadIdx.x) * each), end = min(vocab, first + each);
  const auto each_own = [&](auto&& act) {
    for (int64_t v = first; v < end; v += N) {
      const auto x = load_pack<N>(row + v);
#pragma unroll
      for (int i = 0; i < N; ++i) act(key_of(x.at[i]));
    }
  };
  const auto sum_of_own = [&](auto&& f) {
    uint64_t sum = 0;
    each_own([&](uint32_t k) { sum += f(k); });
    return sum;
  };
  let_later_begin();
  wait_for_earlier();
  uint32_t highest = 0;
  each_own([&](uint32_t k) { highest = max(highest, k); });
  highest = uint32_t(together(highest, Larger{}));
  if (highest != no_score) {
    const float best = score_of(highest);
    const auto weight = [&](uint32_t k) { return weight_of(score_of(k) - best, how.scale); };
    // The highest key of at least `low` down to which what f counts is `enough`; of all from `low` on it is.
    const auto down_to = [&](uint32_t low, uint64_t enough, auto&& f) {
      uint64_t above = 0;
      for (uint32_t high = highest + 1; high - low > 1;) {
        const uint64_t width = high - low;
        const uint32_t ends[] = {low, low + uint32_t(width / 4), low + uint32_t(width / 2), low + uint32_t(width * 3 / 4), high};
        const bool narrow = width <= 1 << 24;  // so that 2^19 places in it add up to less than 2^44, above which there is room for the count
        uint64_t sums[4] = {};  // down to each of those within; how many tokens the range has, 2^44 each, and where they lie in it
        each_own([&](uint32_t k) {
          if (k < low || k >= high) return;
          if (narrow) sums[3] += (uint64_t{1} << 44) + (k - low);
          if (k < ends[1]) return;
          const uint64_t w = f(k);
#pragma unroll
          for (int i = 0; i < 3; ++i) sums[i] += k >= ends[i + 1] ? w : 0;
        });
        together(sums, Add{});
        if (sums[3] >> 44 == 1) return low + uint32_t(sums[3]);  // there is but one
        int i = 3;
        while (i > 0 && above + sums[i - 1] < enough) --i;
        low = ends[i], high = ends[i + 1];
        if (i < 3) above += sums[i];
      }
      return low;
    };
    uint32_t low = 1;
    if (how.top_k > 0 && how.top_k < vocab) low = down_to(low, uint64_t(how.top_k), [](uint32_t) { return uint64_t{1}; });
    const auto kept = [&](uint32_t k) { return k >= low ? weight(k) : 0; };
    if (how.top_p < 1) low = down_to(low, enough_of(together(sum_of_own(kept), Add{}), how.top_p), weight);
    if (const float least = __double2float_ru(double(best) + how.edge); isfinite(least)) low = max(low, key_of(least));
    const uint64_t mine = sum_of_own(kept), sum = together(mine, Add{}), at = high_product(how.random, sum), before = memory.below + sum_before(memory, mine);
    if (before <= at && at < before + mine) {
      uint64_t left = at - before;
      int64_t v = first;
      for (uint64_t w; left >= (w = kept(key_of(row[v]))); ++v) left -= w;
      ids[how.row] = int(v);
    }
  } else if (first == 0 && threadIdx.x == 0) {
    ids[how.row] = -1;
  }
  together.neighbours.meet();  // none is gone before it is read
}

}  // namespace

void draw_cuda(CudaContext& cuda, Tensor ids, Tensor logits, std::span<const std::optional<Drawing>> all) {
  const int64_t vocab = logits.shape[1];
  Rows rows;
  unsigned count = 0;
  const auto run = [&] {
    with_width<float>(vocab, {logits}, [&](auto n) {
      const unsigned neighbours = cuda.capability >= 90 && vocab >= int64_t{threads} * n.value * 2 ? most_neighbours : 1;
      const int64_t all_threads = int64_t{neighbours} * threads, each = (vocab + all_threads * n.value - 1) / (all_threads * n.value) * n.value;
      launch_early(cuda, "draw", Grid(dim3(neighbours, count), neighbours), threads, 0, draw_rows<n.value>, at<int>(ids), at<const float>(logits), vocab, each, rows);
    });
    count = 0;
  };
  for (size_t i = 0; i < all.size(); ++i) {
    if (const auto& how = all[i]) rows.of[count++] = {int64_t(i), how->top_k, how->top_p, how->random, edge_of(how->temperature, how->min_p), scale_of(how->temperature)};
    if (count == most_rows) run();
  }
  if (count > 0) run();
}

}  // namespace thimble::ops
