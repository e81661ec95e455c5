// Dense weights on cuda: conversion at memory speed, and the product with a few tokens: by tensor cores where all is bf16, else a warp to a row of the weight.
#include <algorithm>

#include "device/kernel.cuh"
#include "device/mma.cuh"
#include "quant/dense.h"

namespace thimble::quant {
namespace {

constexpr int threads = 256;
constexpr int most_tokens = 8;

template <class Y, class X, int N>
struct Convert {
  Y* y;
  const X* x;
  __device__ void operator()(int64_t i) const {
    const auto a = load_pack<N>(x + i * N);
    Pack<Y, N> b;
    for (int k = 0; k < N; ++k) b.at[k] = Y(float(a.at[k]));
    store_pack<N>(y + i * N, b);
  }
};

// Products that share their tokens, as one list of blocks of rows. c: null, or what is added.
template <class Y, class W>
struct Products {
  struct Product { Y* y; const Y* c; const W* w; int64_t rows; int first; };  // first: of its blocks
  Product of[most_few_products];
  int count = 0, blocks = 0;

  Products(std::span<const FewProduct> products, int rows_of_block) {
    for (const auto& [y, w, c] : products) {
      of[count++] = {at<Y>(y), at<const Y>(c), at<const W>(w->dense()), w->shape[0], blocks};
      blocks += int(blocks_of(w->shape[0], rows_of_block));
    }
  }
  Products from_token(int64_t token) const {
    Products later = *this;
    for (auto& p : later.of) p.y += token * p.rows, p.c += p.c ? token * p.rows : 0;
    return later;
  }
  __device__ __forceinline__ const Product& with_block(int block) const {
    int p = 0;
    while (p + 1 < count && block >= of[p + 1].first) ++p;
    return of[p];
  }
};

// T: room for tokens. The loads of several steps along a row are under way together, the first ones before x is there.
template <int T, int N, class Y, class X, class W>
__global__ void multiply(const __grid_constant__ Products<Y, W> products, const X* x, int tokens, int64_t columns) {
  constexpr int at_once = 8, step = 32 * N;
  let_later_begin();
  const auto& p = products.with_block(int(blockIdx.x));
  const int64_t row = int64_t{int(blockIdx.x) - p.first} * (threads / 32) + threadIdx.x / 32;
  if (row >= p.rows) return;
  const W* w = p.w + row * columns;
  float sums[T] = {};
  const auto add = [&](const Pack<W, N>& a, int64_t k) {
#pragma unroll
    for (int t = 0; t < T; ++t) {
      if (t >= tokens) break;
      const auto b = load_pack<N>(x + t * columns + k);
#pragma unroll
      for (int i = 0; i < N; ++i) sums[t] += float(a.at[i]) * float(b.at[i]);
    }
  };
  int64_t k = int64_t{threadIdx.x} % 32 * N;
  bool waited = false;
  for (; k + (at_once - 1) * step < columns; k += at_once * step) {
    Pack<W, N> a[at_once];
#pragma unroll
    for (int u = 0; u < at_once; ++u) a[u] = load_pack<N>(w + k + u * step);
    if (!waited) wait_for_earlier(), waited = true;
#pragma unroll
    for (int u = 0; u < at_once; ++u) add(a[u], k + u * step);
  }
  if (!waited) wait_for_earlier();
  for (; k < columns; k += step) add(load_pack<N>(w + k), k);
#pragma unroll
  for (int t = 0; t < T; ++t) {
    if (t >= tokens) break;
    const float sum = warp_reduce(sums[t], Add{});
    if (threadIdx.x % 32 == 0) p.y[t * p.rows + row] = Y(sum + (p.c ? float(p.c[t * p.rows + row]) : 0.0f));
  }
}

// Two to 8 * N tokens, 16 * N rows a block, whose columns its warps have by turns. Lane (g, t) = (lane / 4, lane % 4) loads eight neighbouring weights of rows
// g and g + 8 of each sixteen and 32 columns, as they lie: x of token g is loaded likewise, so that the products' columns meet.
constexpr int tile_rows = 16, tile_warps = threads / 32, token_columns = 8, tile_step = 32;
template <int N, class Y>
__global__ void multiply_tiles(const __grid_constant__ Products<Y, __nv_bfloat16> products, const __nv_bfloat16* x, int tokens, int columns) {
  constexpr int own_columns = 4 * tile_step, at_once = 4 / N, block_rows = N * tile_rows;  // a warp's, side by side
  __shared__ float sums[tile_warps][N][N][tile_rows * token_columns];  // by rows and tokens
  using Eight = Pack<uint32_t, 4>;
  let_later_begin();
  const int lane = int(threadIdx.x) % 32, part = int(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const auto& p = products.with_block(int(blockIdx.x));
  const int64_t row = int64_t{int(blockIdx.x) - p.first} * block_rows, last = p.rows - 1;
  const __nv_bfloat16* w[2 * N];
#pragma unroll
  for (int r = 0; r < 2 * N; ++r) w[r] = p.w + min(row + g + r * 8, last) * columns + t * 8;
  float c[N][N][4] = {};
  bool waited = false;
  for (int own = part * own_columns; own < columns; own += tile_warps * own_columns)
#pragma unroll
    for (int k = own; k < own + own_columns; k += at_once * tile_step) {
      Eight a[at_once][2 * N];
#pragma unroll
      for (int u = 0; u < at_once; ++u)
#pragma unroll
        for (int r = 0; r < 2 * N; ++r) {
          a[u][r] = {};
          if (k + u * tile_step + t * 8 < columns) a[u][r] = load_pack<4>(reinterpret_cast<const uint32_t*>(w[r] + k + u * tile_step));
        }
      if (!waited) wait_for_earlier(), waited = true;
#pragma unroll
      for (int u = 0; u < at_once; ++u)
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const int token = n * token_columns + g, from = k + u * tile_step + t * 8;
          Eight b{};
          if (token < tokens && from < columns) b = load_pack<4>(reinterpret_cast<const uint32_t*>(x + int64_t{token} * columns + from));
#pragma unroll
          for (int m = 0; m < N; ++m)
#pragma unroll
            for (int i = 0; i < 4; i += 2) {
              const uint32_t both[4] = {a[u][2 * m].at[i], a[u][2 * m + 1].at[i], a[u][2 * m].at[i + 1], a[u][2 * m + 1].at[i + 1]};
              multiply_add(c[m][n], both, b.at[i], b.at[i + 1]);
            }
        }
    }
  if (!waited) wait_for_earlier();
#pragma unroll
  for (int m = 0; m < N; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n) store_pack(sums[part][m][n] + lane * 4, Pack<float, 4>{c[m][n][0], c[m][n][1], c[m][n][2], c[m][n][3]});
  __syncthreads();
  for (int i = int(threadIdx.x); i < N * token_columns * block_rows; i += threads) {
    const int token = i / block_rows, r = i % block_rows, of_lane = r % 8 * 4 + token % token_columns / 2, place = of_lane * 4 + r % tile_rows / 8 * 2 + token % 2;
    if (token >= tokens || row + r >= p.rows) continue;
    float sum = 0;
#pragma unroll
    for (int of = 0; of < tile_warps; ++of) sum += sums[of][r / tile_rows][token / token_columns][place];
    const int64_t to = token * p.rows + row + r;
    p.y[to] = Y(sum + (p.c ? float(p.c[to]) : 0.0f));
  }
}

}  // namespace

void dense_convert_cuda(CudaContext& cuda, Tensor y, Tensor x) {
  visit_cuda(y.dtype, [&]<class Y>(Y) {
    visit_cuda(x.dtype, [&]<class X>(X) {
      with_width<float>(x.count(), {x, y}, [&](auto n) { for_each(cuda, x.count() / n.value, Convert<Y, X, n.value>{at<Y>(y), at<const X>(x)}); });
    });
  });
}

void dense_multiply_few_cuda(CudaContext& cuda, Tensor x, std::span<const FewProduct> given) {
  const auto tokens = int(x.shape[0]);
  const int64_t columns = x.shape[1];
  if (tokens == 0) return;
  const auto aligned = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; };
  const bool all_aligned = aligned(x) && std::all_of(given.begin(), given.end(), [&](const FewProduct& p) { return aligned(p.w->dense()); });
  const DType stored = given.front().w->dense().dtype;
  // A kernel takes so many tokens; more go one after the other.
  const auto in_turn = [&](int most, auto&& run) { for (int first = 0; first < tokens; first += most) run(first, std::min(most, tokens - first)); };
  visit_cuda(given.front().y.dtype, [&]<class Y>(Y) {
    if (tokens > 1 && x.dtype == DType::bf16 && stored == DType::bf16 && columns % 8 == 0 && all_aligned && cuda.capability >= 80) {
      return in_turn(2 * token_columns, [&](int first, int count) {
        const auto run = [&](auto kernel, int n) {
          const Products<Y, __nv_bfloat16> products(given, n * tile_rows);
          if (products.blocks == 0) return;
          launch_early(cuda, "dense multiply", unsigned(products.blocks), threads, 0, kernel, products.from_token(first), at<const __nv_bfloat16>(x) + first * columns, count, int(columns));
        };
        if (count <= token_columns) run(multiply_tiles<1, Y>, 1);
        else run(multiply_tiles<2, Y>, 2);
      });
    }
    visit_cuda(x.dtype, [&]<class X>(X) {
      visit_cuda(stored, [&]<class W>(W) {
        const Products<Y, W> products(given, threads / 32);
        if (products.blocks == 0) return;
        const auto go = [&]<int n>(std::integral_constant<int, n>) {
          in_turn(most_tokens, [&](int first, int count) {
            const auto run = [&](auto kernel) {
              launch_early(cuda, "dense multiply", unsigned(products.blocks), threads, 0, kernel, products.from_token(first), at<const X>(x) + first * columns, count, columns);
            };
            if (tokens == 1) run(multiply<1, n, Y, X, W>);
            else run(multiply<most_tokens, n, Y, X, W>);
          });
        };
        constexpr int wide = 16 / int(std::max(sizeof(W), sizeof(X)));
        if (columns % wide == 0 && all_aligned) go(std::integral_constant<int, wide>{});
        else go(std::integral_constant<int, 1>{});
      });
    });
  });
}

}  // namespace thimble::quant
