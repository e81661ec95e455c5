// Attention's forward on cuda, on tensor cores (FlashAttention-2: Dao 2023): a block of four warps holds a tile of rows and walks over the
// keys that they see, the next keys and values on their way while it computes. Scores stay in registers; no atomics, so bits repeat.
#include "ops/attention_cuda.cuh"

namespace thimble::ops {
namespace {

using bf16_t = __nv_bfloat16;

template <int D, int M, int N>
struct ForwardTile {  // M: pieces of 16 rows of a warp; N: keys of a tile
  static constexpr int rows = 16 * M * tile_warps;
  static constexpr int row_bytes = rows * 2 * D, key_bytes = N * 2 * D;
  static constexpr int shared = row_bytes + 4 * key_bytes + rows * 2 * int(sizeof(int));
};

// Scores become exp(score - new maximum), unseen ones 0; what was summed before is shrunk to the new maximum.
template <int D, int M, int N>
__device__ void softmax_step(float (&s)[M][N / 8][4], float (&o)[M][D / 8][4], float (&most)[M][2], float (&total)[M][2], float scale) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float now = most[m][h];
#pragma unroll
      for (int n = 0; n < N / 8; ++n) now = fmaxf(now, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
      now = fmaxf(now, __shfl_xor_sync(~0u, now, 1));
      now = fmaxf(now, __shfl_xor_sync(~0u, now, 2));
      const float shift = now == -INFINITY ? 0.0f : now * scale;  // a row that has seen nothing yet
      const float shrink = power_of_two(most[m][h] * scale - shift);
      most[m][h] = now;
      float part = 0;
#pragma unroll
      for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 2 * h; e < 2 * h + 2; ++e) part += s[m][n][e] = power_of_two(fmaf(s[m][n][e], scale, -shift));
      total[m][h] = total[m][h] * shrink + part;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) o[m][n][2 * h] *= shrink, o[m][n][2 * h + 1] *= shrink;
    }
}

template <int D, int M, int N, bool capped>
__global__ void __launch_bounds__(tile_threads, 2) forward(AttentionRun a, bf16_t* y, float* lse, const bf16_t* q, const bf16_t* k,
                                                           const bf16_t* v) {
  using T = ForwardTile<D, M, N>;
  using L = TileLayout<D>;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t queries = shared_address(shared), keys = queries + T::row_bytes, values = keys + 2 * T::key_bytes;
  int* const low = reinterpret_cast<int*>(shared + T::row_bytes + 4 * T::key_bytes);
  int* const high = low + T::rows;
  const int tiles = int(gridDim.x) / a.groups, group = int(blockIdx.x) % a.groups;
  const int tile = tiles - 1 - int(blockIdx.x) / a.groups;  // the longest first
  const TileRows rows(a, tile * T::rows);
  const int count = min(T::rows, a.rows() - rows.begin);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, own = warp * 16 * M;

  copy_rows<D, T::rows>({{queries, q}}, count, [&](int i) { return rows.query(a, group, i); });
  if (int(threadIdx.x) < T::rows) TileSight::fill(a, rows, low, high, int(threadIdx.x), count);
  __syncthreads();
  const TileSight sight(a, rows, low, count);
  const auto copy_keys = [&](int key, int stage) {
    const uint32_t offset = stage * T::key_bytes;
    copy_rows<D, N>({{keys + offset, k}, {values + offset, v}}, sight.end - key, [&](int i) { return (key + i) * a.groups + group; });
  };
  copy_keys(sight.begin, 0);

  const float unit = score_unit<capped>(a);
  float o[M][D / 8][4] = {}, most[M][2], total[M][2] = {};
#pragma unroll
  for (int m = 0; m < M; ++m) most[m][0] = most[m][1] = -INFINITY;
  int stage = 0;
  for (int key = sight.begin; key < sight.end; key += N, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // this tile has come, and nobody reads the one before it any more
    if (key + N < sight.end) copy_keys(key + N, stage ^ 1);
    float s[M][N / 8][4];
    tile_product<D, M, N>(s, L::down_first(queries, own), L::right_first(keys + stage * T::key_bytes, 0));
    if constexpr (capped) cap_scores(s, a);
    if (!sight.all_see(key, N)) hide<M, N>(s, low, high, own, key, -INFINITY);
    softmax_step<D, M, N>(s, o, most, total, unit * log2_e);
    add_product<D, M, N>(o, s, L::down_first(values + stage * T::key_bytes, 0));
  }

#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      total[m][h] += __shfl_xor_sync(~0u, total[m][h], 1);
      total[m][h] += __shfl_xor_sync(~0u, total[m][h], 2);
      const int row = own + 16 * m + 8 * h + lane / 4;
      if (lse && lane % 4 == 0 && row < count) lse[rows.lse(a, group, row)] = most[m][h] * unit + logf(total[m][h]);
    }
  write_rows<D, M>(y, o, shared, own, count, [&](int m, int h) { return 1.0f / total[m][h]; }, [&](int i) { return rows.query(a, group, i); });
}

template <int D, int M, int N, bool capped = false>
void forward_tiles(CudaContext& cuda, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  using T = ForwardTile<D, M, N>;
  const AttentionRun a = attention_run(q, k, shape);
  const int64_t tiles = (int64_t{a.rows()} + T::rows - 1) / T::rows;
  launch_kernel(cuda, "attention", tiles * a.groups, tile_threads, T::shared, forward<D, M, N, capped>, a, at<bf16_t>(y), at<float>(lse),
                at<const bf16_t>(q), at<const bf16_t>(k), at<const bf16_t>(v));
}

}  // namespace

void attention_cuda(CudaContext& cuda, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  if (q.count() == 0) return;
  if (!takes_tiles(q, k, shape) || !aligned_16(y, q, k, v)) return attention_general(cuda, y, lse, q, k, v, shape);
  if (shape.cap > 0) {
    if (q.shape[2] == 128) return forward_tiles<128, 2, 64, true>(cuda, y, lse, q, k, v, shape);
    return forward_tiles<256, 1, 32, true>(cuda, y, lse, q, k, v, shape);
  }
  switch (q.shape[2]) {
    case 64: return forward_tiles<64, 2, 64>(cuda, y, lse, q, k, v, shape);
    case 96: return forward_tiles<96, 2, 64>(cuda, y, lse, q, k, v, shape);
    case 128: return forward_tiles<128, 2, 64>(cuda, y, lse, q, k, v, shape);
    default: return forward_tiles<256, 1, 32>(cuda, y, lse, q, k, v, shape);
  }
}

}  // namespace thimble::ops
