// Attention's gradients on cuda, without atomics and without workspace: blocks of keys walk over the rows that see them for dk and dv, tiles
// of rows over their keys for dq. Each recomputes the probabilities from lse; seven products instead of five, but every sum has its order.
#include "ops/attention_cuda.cuh"

namespace thimble::ops {
namespace {

using bf16_t = __nv_bfloat16;

struct BackwardData {
  bf16_t *dq, *dk, *dv;
  const bf16_t *dy, *q, *k, *v;
  const float *lse, *delta;  // (H, T)
  const int* last;           // by block of keys: the last token that sees one of them
};

// last[block]: every token sees itself, so that the last key of the block is the least that it can be.
__global__ void __launch_bounds__(256) last_tokens(int* last, AttentionRun a, int block_keys) {
  __shared__ int warps[256 / 32];
  const int end = min(a.tokens, (int(blockIdx.x) + 1) * block_keys);
  int most = end - 1;
#pragma unroll 4
  for (int t = end + int(threadIdx.x); t < a.tokens; t += 256)
    if (a.low(t) < end) most = t;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) most = max(most, __shfl_xor_sync(~0u, most, d));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int i = 1; i < 256 / 32; ++i) most = max(most, warps[i]);
  last[blockIdx.x] = most;
}

template <int M, int N>
__device__ void multiply(float (&ds)[M][N][4], const float (&p)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) ds[m][n][e] *= p[m][n][e];
}

template <int D, int M, int N>
struct KeysTile {  // M: pieces of 16 keys of a warp; N: rows of a tile
  static constexpr int keys = 16 * M * tile_warps;
  static constexpr int key_bytes = keys * 2 * D, row_bytes = N * 2 * D;
  static constexpr int sight_bytes = 4 * N * int(sizeof(int));  // lse, delta, low, high
  static constexpr int shared = 2 * key_bytes + 4 * row_bytes + 2 * sight_bytes;
};

// dk, dv or both of a block of keys. Scores are kept as (key, row), the way in which dv and dk take them without leaving registers.
template <int D, int M, int N, bool want_dk, bool want_dv, bool capped>
__global__ void __launch_bounds__(tile_threads, 2) backward_keys(AttentionRun a, BackwardData b) {
  using T = KeysTile<D, M, N>;
  using L = TileLayout<D>;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t keys = shared_address(shared), values = keys + T::key_bytes, queries = values + T::key_bytes,
                 gradients = queries + 2 * T::row_bytes;
  unsigned char* const sights = shared + 2 * T::key_bytes + 4 * T::row_bytes;
  const int group = int(blockIdx.x) % a.groups, block = int(blockIdx.x) / a.groups;  // the block that most rows see is the first
  const int key = block * T::keys, count = min(T::keys, a.tokens - key);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, own = warp * 16 * M;
  const int begin = key * a.per_group, end = (b.last[block] + 1) * a.per_group;  // rows

  const auto copy_tile = [&](int row, int stage) {
    const TileRows rows(a, row);
    const uint32_t offset = stage * T::row_bytes;
    copy_rows<D, N>({{queries + offset, b.q}, {gradients + offset, b.dy}}, end - row, [&](int i) { return rows.query(a, group, i); });
    unsigned char* const sight = sights + stage * T::sight_bytes;
    float* const lse = reinterpret_cast<float*>(sight);
    int* const low = reinterpret_cast<int*>(lse + 2 * N);
    const int i = int(threadIdx.x);
    if (i < N && i < end - row) {
      const int t = rows.token_of(a, i);
      const int64_t at = rows.lse(a, group, i);
      copy_4(shared_address(lse + i), b.lse + at);
      copy_4(shared_address(lse + N + i), b.delta + at);
      copy_4(shared_address(low + i), a.start + t);
      low[N + i] = t;
    } else if (i < N) {  // a pad's probabilities are 0
      lse[i] = INFINITY, lse[N + i] = 0, low[i] = 0, low[N + i] = INT_MAX;
    }
    __syncwarp();
  };
  const auto vector = [&](int i) { return (key + i) * a.groups + group; };  // of k, v
  copy_rows<D, T::keys>({{keys, b.k}}, count, vector);
  if constexpr (want_dk) copy_rows<D, T::keys>({{values, b.v}}, count, vector);
  copy_tile(begin, 0);

  const float unit = score_unit<capped>(a);
  float dk[want_dk ? M : 1][D / 8][4] = {}, dv[want_dv ? M : 1][D / 8][4] = {};
  int stage = 0;
  for (int row = begin; row < end; row += N, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // this tile has come, and nobody reads the one before it any more
    if (row + N < end) copy_tile(row + N, stage ^ 1);
    const uint32_t q = queries + stage * T::row_bytes, dy = gradients + stage * T::row_bytes;
    const float* const lse = reinterpret_cast<const float*>(sights + stage * T::sight_bytes);
    const float* const delta = lse + N;
    const int *const low = reinterpret_cast<const int*>(delta + N), *const high = low + N;

    const int column = lane % 4 * 2;
    float p[M][N / 8][4];
    [[maybe_unused]] float ds[M][N / 8][4];
    tile_product<D, M, N>(p, L::down_first(keys, own), L::right_first(q, 0));
    if constexpr (capped) cap_scores(p, a);
    if constexpr (want_dk) {
      tile_product<D, M, N>(ds, L::down_first(values, own), L::right_first(dy, 0));
#pragma unroll
      for (int n = 0; n < N / 8; ++n) {
        const float2 d = *reinterpret_cast<const float2*>(delta + 8 * n + column);
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int e = 0; e < 4; ++e) ds[m][n][e] = (ds[m][n][e] - (e % 2 ? d.y : d.x)) * score_slope<capped>(p[m][n][e]);
      }
    }
    bool hidden = high[0] < key + T::keys - 1;  // rows are in the order of tokens
    for (int i = lane; i < N; i += 32) hidden |= max(low[i], high[i] - a.reach) > key;
    const bool masked = __any_sync(~0u, hidden);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      const float2 l = *reinterpret_cast<const float2*>(lse + 8 * n + column);
      const float shift[2] = {l.x * log2_e, l.y * log2_e};
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) p[m][n][e] = power_of_two(fmaf(p[m][n][e], unit * log2_e, -shift[e % 2]));
    }
    if (masked)
#pragma unroll
      for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int to = high[8 * n + column + e], from = max(low[8 * n + column + e], to - a.reach);
#pragma unroll
          for (int m = 0; m < M; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              const int at = key + own + 16 * m + 8 * h + lane / 4;
              if (at < from || at > to) p[m][n][2 * h + e] = 0;
            }
        }
    if constexpr (want_dv) add_product<D, M, N>(dv, p, L::down_first(dy, 0));
    if constexpr (want_dk) {
      multiply(ds, p);
      add_product<D, M, N>(dk, ds, L::down_first(q, 0));
    }
  }
  if constexpr (want_dk) write_rows<D, M>(b.dk, dk, shared, own, count, [&](int, int) { return a.scale; }, vector);
  if constexpr (want_dv) write_rows<D, M>(b.dv, dv, shared + T::key_bytes, own, count, [&](int, int) { return 1.0f; }, vector);
}

template <int D, int M, int N>
struct RowsTile {  // M: pieces of 16 rows of a warp; N: keys of a tile
  static constexpr int rows = 16 * M * tile_warps;
  static constexpr int row_bytes = rows * 2 * D, key_bytes = N * 2 * D;
  static constexpr int shared = 2 * row_bytes + 4 * key_bytes + 4 * rows * int(sizeof(int));  // lse, delta, low, high
};

template <int D, int M, int N, bool capped>
__global__ void __launch_bounds__(tile_threads, 2) backward_rows(AttentionRun a, BackwardData b) {
  using T = RowsTile<D, M, N>;
  using L = TileLayout<D>;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t queries = shared_address(shared), gradients = queries + T::row_bytes, keys = gradients + T::row_bytes,
                 values = keys + 2 * T::key_bytes;
  float* const lse = reinterpret_cast<float*>(shared + 2 * T::row_bytes + 4 * T::key_bytes);
  float* const delta = lse + T::rows;
  int *const low = reinterpret_cast<int*>(delta + T::rows), *const high = low + T::rows;
  const int tiles = int(gridDim.x) / a.groups, group = int(blockIdx.x) % a.groups;
  const int tile = tiles - 1 - int(blockIdx.x) / a.groups;  // the longest first
  const TileRows rows(a, tile * T::rows);
  const int count = min(T::rows, a.rows() - rows.begin);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, own = warp * 16 * M;

  const auto vector = [&](int i) { return rows.query(a, group, i); };  // of q, y
  copy_rows<D, T::rows>({{queries, b.q}, {gradients, b.dy}}, count, vector);
  if (const int i = int(threadIdx.x); i < T::rows) {
    TileSight::fill(a, rows, low, high, i, count);
    const int64_t at = i < count ? rows.lse(a, group, i) : 0;
    lse[i] = i < count ? b.lse[at] * log2_e : INFINITY;
    delta[i] = i < count ? b.delta[at] : 0;
  }
  __syncthreads();
  const TileSight sight(a, rows, low, count);
  const auto copy_keys = [&](int key, int stage) {
    const uint32_t offset = stage * T::key_bytes;
    copy_rows<D, N>({{keys + offset, b.k}, {values + offset, b.v}}, sight.end - key, [&](int i) { return (key + i) * a.groups + group; });
  };
  copy_keys(sight.begin, 0);

  const float unit = score_unit<capped>(a);
  float dq[M][D / 8][4] = {};
  int stage = 0;
  for (int key = sight.begin; key < sight.end; key += N, stage ^= 1) {
    wait_for_copies();
    __syncthreads();
    if (key + N < sight.end) copy_keys(key + N, stage ^ 1);
    const uint32_t k = keys + stage * T::key_bytes, v = values + stage * T::key_bytes;
    float p[M][N / 8][4], ds[M][N / 8][4];
    tile_product<D, M, N>(ds, L::down_first(gradients, own), L::right_first(v, 0));
    tile_product<D, M, N>(p, L::down_first(queries, own), L::right_first(k, 0));
    if constexpr (capped) cap_scores(p, a);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = own + 16 * m + 8 * h + lane / 4;
        const float shift = lse[row], d = delta[row];
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            ds[m][n][e] = (ds[m][n][e] - d) * score_slope<capped>(p[m][n][e]);
            p[m][n][e] = power_of_two(fmaf(p[m][n][e], unit * log2_e, -shift));
          }
      }
    if (!sight.all_see(key, N)) hide<M, N>(p, low, high, own, key, 0.0f);
    multiply(ds, p);
    add_product<D, M, N>(dq, ds, L::down_first(k, 0));
  }
  write_rows<D, M>(b.dq, dq, shared, own, count, [&](int, int) { return a.scale; }, vector);
}

template <int D, int M, int N, bool want_dk, bool want_dv, bool capped = false>
void walk_rows(CudaContext& cuda, const AttentionRun& a, const BackwardData& b) {
  using T = KeysTile<D, M, N>;
  const int64_t blocks = (a.tokens + T::keys - 1) / T::keys;
  launch_kernel(cuda, "attention_backward", blocks * a.groups, tile_threads, T::shared, backward_keys<D, M, N, want_dk, want_dv, capped>, a, b);
}

template <int D, int M, int N, bool capped = false>
void walk_keys(CudaContext& cuda, const AttentionRun& a, const BackwardData& b) {
  using T = RowsTile<D, M, N>;
  const int64_t tiles = (int64_t{a.rows()} + T::rows - 1) / T::rows;
  launch_kernel(cuda, "attention_backward", tiles * a.groups, tile_threads, T::shared, backward_rows<D, M, N, capped>, a, b);
}

}  // namespace

// last (ceil(T / 64)) i32: scratch.
void attention_backward_cuda(CudaContext& cuda, const AttentionGrad& g, Tensor delta, Tensor last, Tensor dy, Tensor y, Tensor lse, Tensor q,
                             Tensor k, Tensor v, const AttentionShape& shape) {
  if (q.count() == 0) return;
  attention_delta(cuda, delta, dy, y);
  if (!takes_tiles(q, k, shape) || !aligned_16(g.dq, g.dk, g.dv, dy, q, k, v))
    return attention_backward_general(cuda, g, delta, dy, lse, q, k, v, shape);
  const AttentionRun a = attention_run(q, k, shape);
  const BackwardData b{at<bf16_t>(g.dq), at<bf16_t>(g.dk), at<bf16_t>(g.dv),    at<const bf16_t>(dy),     at<const bf16_t>(q), at<const bf16_t>(k),
                       at<const bf16_t>(v), at<const float>(lse), at<const float>(delta), at<const int>(last)};
  const int block_keys = a.dim == 64 ? KeysTile<64, 2, 32>::keys : KeysTile<128, 1, 64>::keys;
  launch_kernel(cuda, "attention_backward", (a.tokens + block_keys - 1) / block_keys, 256, 0, last_tokens, at<int>(last), a, block_keys);
  if (a.cap > 0) {
    if (a.dim == 128) {
      walk_rows<128, 1, 64, true, true, true>(cuda, a, b);
      return walk_keys<128, 2, 32, true>(cuda, a, b);
    }
    walk_rows<256, 1, 16, true, false, true>(cuda, a, b);
    walk_rows<256, 1, 16, false, true, true>(cuda, a, b);
    return walk_keys<256, 1, 16, true>(cuda, a, b);
  }
  switch (a.dim) {
    case 64:
      walk_rows<64, 2, 32, true, true>(cuda, a, b);
      return walk_keys<64, 2, 64>(cuda, a, b);
    case 96:
      walk_rows<96, 1, 64, true, true>(cuda, a, b);
      return walk_keys<96, 2, 32>(cuda, a, b);
    case 128:
      walk_rows<128, 1, 64, true, true>(cuda, a, b);
      return walk_keys<128, 2, 32>(cuda, a, b);
    default:  // registers hold one gradient of a block
      walk_rows<256, 1, 16, true, false>(cuda, a, b);
      walk_rows<256, 1, 16, false, true>(cuda, a, b);
      return walk_keys<256, 1, 16>(cuda, a, b);
  }
}

}  // namespace thimble::ops
