// What attention's CUDA kernels share: the sizes of a call, rows of (token, head) pairs, and tiles in shared memory.
// As on the cpu, a key/value head's queries are one list of rows, (token, head) together, so that a tile of keys is read once for all.
#pragma once
#include <climits>

#include "device/kernel.cuh"
#include "device/mma.cuh"
#include "ops/attention.h"

namespace thimble::ops {

constexpr int tile_warps = 4, tile_threads = 32 * tile_warps;
constexpr int most_per_group = 512;  // query heads of a key/value head: what `reciprocal` is exact for
constexpr float log2_e = 1.44269504088896340736f;

struct AttentionRun {
  const int32_t* start;
  int tokens, first, heads, groups, per_group, dim;  // groups: key/value heads; per_group: query heads of each
  uint32_t reciprocal;                               // x / per_group is x * reciprocal >> 20 where x < 128 + per_group
  float scale, cap;
  int reach;  // keys before its own that a query sees at most

  __host__ __device__ int rows() const { return tokens * per_group; }
  __device__ int low(int token) const { return max(start[token], first + token - reach); }
  __device__ int64_t key(int group, int at) const { return (int64_t{at} * groups + group) * dim; }  // offset in k, v
};

inline AttentionRun attention_run(Tensor q, Tensor k, const AttentionShape& a) {
  const int per_group = int(q.shape[1] / k.shape[1]);
  return {.start = static_cast<const int32_t*>(a.start.data), .tokens = int(q.shape[0]), .first = int(a.first), .heads = int(q.shape[1]),
          .groups = int(k.shape[1]), .per_group = per_group, .dim = int(q.shape[2]), .reciprocal = uint32_t((1 << 20) / per_group + 1),
          .scale = a.scale, .cap = a.cap, .reach = a.window > 0 ? int(a.window) - 1 : INT_MAX};
}

// Whether the tensor cores' kernels take it; attention_general.cu takes the rest.
inline bool takes_tiles(Tensor q, Tensor k, const AttentionShape& a) {
  const int64_t dim = q.shape[2], per_group = q.shape[1] / k.shape[1], vectors = INT_MAX - 1024;
  int device = 0, major = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  return major >= 8 && q.dtype == DType::bf16 && (dim == 64 || dim == 96 || dim == 128 || dim == 256) && per_group <= most_per_group &&
         q.shape[0] * q.shape[1] <= vectors && k.shape[0] * k.shape[1] <= vectors &&  // a vector's number is 32-bit
         a.scale > 0 &&                                                               // the largest score is that of the largest product
         (a.cap == 0 || dim >= 128);                                                  // no model caps the scores of smaller heads
}
template <class... T>
bool aligned_16(T... x) { return ((reinterpret_cast<uintptr_t>(x.data) % 16 == 0) && ...); }

template <class... P, class... A>
void launch_kernel(CudaContext& cuda, const char* name, int64_t blocks, int threads, int shared, void (*kernel)(P...), A... args) {
  if (shared > 48 << 10) check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared), name);
  kernel<<<unsigned(blocks), threads, shared, cuda.stream>>>(args...);
  check_cuda(cudaGetLastError(), name);
}

// The rows of a group from row `begin` on: which token and which vector of q, y each is. `i` counts from `begin`, below 128.
struct TileRows {
  int begin, token, rest;
  __device__ TileRows(const AttentionRun& a, int begin) : begin(begin), token(begin / a.per_group), rest(begin - token * a.per_group) {}
  __device__ int token_of(const AttentionRun& a, int i) const { return token + int(uint32_t(rest + i) * a.reciprocal >> 20); }
  __device__ int query(const AttentionRun& a, int group, int i) const {
    return token_of(a, i) * (a.heads - a.per_group) + group * a.per_group + begin + i;
  }
  __device__ int64_t lse(const AttentionRun& a, int group, int i) const {
    const int t = token_of(a, i);
    return int64_t{group * a.per_group + begin + i - t * a.per_group} * a.tokens + t;
  }
};

// Rows of D bf16 in shared memory, from an address that 128 divides. Chunks of 16 bytes are exchanged within a row so that the same
// chunk of eight rows lies in eight different groups of banks.
template <int D>
struct TileLayout {
  static_assert(D % 32 == 0);
  static constexpr int row_bytes = 2 * D, chunks = D / 8, mask = D % 64 == 0 ? 7 : 3;
  static __device__ int turn(int row) { return mask == 7 ? row & 7 : row >> 1 & 3; }
  static __device__ uint32_t offset(int row, int chunk) { return uint32_t(row * row_bytes + ((chunk ^ turn(row)) << 4)); }

  // The rows that a lane names to load_matrices, for the 16 x 16 piece at `row`, column 0: the matrices go down first, then right ...
  static __device__ uint32_t down_first(uint32_t tile, int row) {
    const int lane = int(threadIdx.x) % 32;
    return tile + offset(row + lane % 16, lane / 16);
  }
  // ... or right first, then down.
  static __device__ uint32_t right_first(uint32_t tile, int row) {
    const int lane = int(threadIdx.x) % 32;
    return tile + offset(row + lane % 8 + lane / 16 * 8, lane / 8 % 2);
  }
  // The same for the piece `row` rows (a multiple of 8) further and at `chunk` (even).
  static __device__ uint32_t piece(uint32_t lane_address, int row, int chunk) {
    return (lane_address ^ uint32_t((chunk & mask) << 4)) + uint32_t(row * row_bytes + ((chunk & ~mask) << 4));
  }
};

// The thread's number, of which the compiler does not know that it is the same in every turn of a loop: what follows from it is computed
// again rather than kept in registers that the sums need.
__device__ inline int thread_again() {
  int i = int(threadIdx.x);
  asm volatile("" : "+r"(i));
  return i;
}

// Starts the copies of `rows` rows of each; those from `count` on become zeros, and nothing is read there. vector(i): the number of row i.
struct Copy {
  uint32_t tile;
  const __nv_bfloat16* from;
};
template <int D, int rows, int n, class Vector>
__device__ inline void copy_rows(const Copy (&copies)[n], int count, Vector&& vector) {
  using L = TileLayout<D>;
  static_assert(rows * L::chunks % tile_threads == 0);
  const int thread = thread_again();
#pragma unroll
  for (int j = 0; j < rows * L::chunks / tile_threads; ++j) {
    const int i = j * tile_threads + thread, row = i / L::chunks, chunk = i % L::chunks;
    const int64_t offset = int64_t{vector(row)} * D + chunk * 8;
#pragma unroll
    for (int c = 0; c < n; ++c) copy_16(copies[c].tile + L::offset(row, chunk), copies[c].from + offset, row < count);
  }
}

// c (16 M, N) = a (16 M, D) b (N, D)^T, both in shared memory: `a` down_first, `b` right_first.
template <int D, int M, int N>
__device__ inline void tile_product(float (&c)[M][N / 8][4], uint32_t a, uint32_t b) {
  using L = TileLayout<D>;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[m][n][e] = 0;
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    uint32_t fa[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrices(fa[m], L::piece(a, 16 * m, 2 * k));
#pragma unroll
    for (int n = 0; n < N / 16; ++n) {
      uint32_t fb[4];
      load_matrices(fb, L::piece(b, 16 * n, 2 * k));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply_add(c[m][2 * n], fa[m], fb[0], fb[1]);
        multiply_add(c[m][2 * n + 1], fa[m], fb[2], fb[3]);
      }
    }
  }
}

// c (16 M, D) += bf16(p) (16 M, N) b (N, D): `p` as products leave it, `b` in shared memory, down_first.
template <int D, int M, int N>
__device__ inline void add_product(float (&c)[M][D / 8][4], const float (&p)[M][N / 8][4], uint32_t b) {
  using L = TileLayout<D>;
#pragma unroll
  for (int k = 0; k < N / 16; ++k) {
    uint32_t fa[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) {
      fa[m][0] = pack_bf16(p[m][2 * k][0], p[m][2 * k][1]);
      fa[m][1] = pack_bf16(p[m][2 * k][2], p[m][2 * k][3]);
      fa[m][2] = pack_bf16(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
      fa[m][3] = pack_bf16(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
    }
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      uint32_t fb[4];
      load_transposed(fb, L::piece(b, 16 * k, 2 * n));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply_add(c[m][2 * n], fa[m], fb[0], fb[1]);
        multiply_add(c[m][2 * n + 1], fa[m], fb[2], fb[3]);
      }
    }
  }
}

// Writes a warp's c (16 M, D) as bf16 to memory, by way of its own rows `row`.. of a tile, which nobody else reads any more.
// factor(m, h): of rows 16 m + 8 h + lane / 4; vector(i): the number of row i < count of the tile.
template <int D, int M, class Factor, class Vector>
__device__ inline void write_rows(__nv_bfloat16* to, const float (&c)[M][D / 8][4], unsigned char* tile, int row, int count,
                                  Factor&& factor, Vector&& vector) {
  using L = TileLayout<D>;
  const int lane = int(threadIdx.x) % 32;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float f = factor(m, h);
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
        *reinterpret_cast<uint32_t*>(tile + L::offset(row + 16 * m + 8 * h + lane / 4, n) + lane % 4 * 4) =
            pack_bf16(c[m][n][2 * h] * f, c[m][n][2 * h + 1] * f);
    }
  __syncwarp();
  for (int i = lane; i < 16 * M * L::chunks; i += 32) {
    const int r = row + i / L::chunks, chunk = i % L::chunks;
    if (r < count)
      *reinterpret_cast<uint4*>(to + int64_t{vector(r)} * D + chunk * 8) = *reinterpret_cast<const uint4*>(tile + L::offset(r, chunk));
  }
}

// Which keys the rows of a tile see, in shared memory: low .. high each, all of them within begin .. end.
struct TileSight {
  int begin, end;                // the union, half open
  int common_low, common_high;  // seen by every row, closed

  // After low and high were filled by fill() and a __syncthreads().
  __device__ TileSight(const AttentionRun& a, const TileRows& rows, const int* low, int count) {
    begin = INT_MAX, common_low = 0;
    for (int i = int(threadIdx.x) % 32; i < count; i += 32) begin = min(begin, low[i]), common_low = max(common_low, low[i]);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      begin = min(begin, __shfl_xor_sync(~0u, begin, d));
      common_low = max(common_low, __shfl_xor_sync(~0u, common_low, d));
    }
    common_high = a.first + rows.token;
    end = a.first + rows.token_of(a, count - 1) + 1;
  }
  static __device__ void fill(const AttentionRun& a, const TileRows& rows, int* low, int* high, int i, int count) {
    const int t = rows.token_of(a, i);
    low[i] = i < count ? a.low(t) : 0;
    high[i] = i < count ? a.first + t : INT_MAX;  // a pad sees all: nobody looks at it
  }
  __device__ bool all_see(int key, int n) const { return key >= common_low && key + n - 1 <= common_high; }
};

// What the rows `row`.. of a tile do not see of the keys from `key` on becomes `unseen`.
template <int M, int N>
__device__ inline void hide(float (&s)[M][N / 8][4], const int* low, const int* high, int row, int key, float unseen) {
  const int lane = thread_again() % 32;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = row + 16 * m + 8 * h + lane / 4, from = low[i] - key - lane % 4 * 2, to = high[i] - key - lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (8 * n + e < from || 8 * n + e > to) s[m][n][2 * h + e] = unseen;
    }
}

// tanh to a few parts in 10^7: the hardware's own is off by 5 in 10^4, which a cap of 50 would make large.
__device__ inline float exact_tanh(float x) { return fmaf(-2.0f, __fdividef(1.0f, power_of_two(2 * log2_e * x) + 1.0f), 1.0f); }

// Products q.k become tanh(scale q.k / cap), so that a score is one of them times the cap, as it otherwise is a product times the scale.
template <int M, int N>
__device__ inline void cap_scores(float (&s)[M][N][4], const AttentionRun& a) {
  const float in = a.scale / a.cap;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = exact_tanh(s[m][n][e] * in);
}
template <bool capped>
__device__ inline float score_unit(const AttentionRun& a) { return capped ? a.cap : a.scale; }
// What the gradient of a score is multiplied by, which is its tanh times the cap.
template <bool capped>
__device__ inline float score_slope(float tanh) { return capped ? 1.0f - tanh * tanh : 1.0f; }

// attention_general.cu: any type, any head dim
void attention_delta(CudaContext&, Tensor delta, Tensor dy, Tensor y);  // (H, T): sum of dy * y
void attention_general(CudaContext&, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape&);
void attention_backward_general(CudaContext&, const AttentionGrad&, Tensor delta, Tensor dy, Tensor lse, Tensor q, Tensor k, Tensor v,
                                const AttentionShape&);

}  // namespace thimble::ops
