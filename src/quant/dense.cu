// Dense weights on cuda: conversion at memory speed, and the product with a few tokens, a warp to a row of the weight.
#include <algorithm>

#include "device/kernel.cuh"
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

  explicit Products(std::span<const FewProduct> products) {
    for (const auto& [y, w, c] : products) {
      of[count++] = {at<Y>(y), at<const Y>(c), at<const W>(w->dense()), w->shape[0], blocks};
      blocks += int(blocks_of(w->shape[0], threads / 32));
    }
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
  if (tokens == 0) return;
  const auto aligned = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; };
  const bool all_aligned = aligned(x) && std::all_of(given.begin(), given.end(), [&](const FewProduct& p) { return aligned(p.w->dense()); });
  visit_cuda(given.front().y.dtype, [&]<class Y>(Y) {
    visit_cuda(x.dtype, [&]<class X>(X) {
      visit_cuda(given.front().w->dense().dtype, [&]<class W>(W) {
        const Products<Y, W> products(given);
        if (products.blocks == 0) return;
        const auto go = [&]<int n>(std::integral_constant<int, n>) {
          const auto run = [&](auto kernel) { launch_early(cuda, "dense multiply", unsigned(products.blocks), threads, 0, kernel, products, at<const X>(x), tokens, x.shape[1]); };
          if (tokens == 1) run(multiply<1, n, Y, X, W>);
          else run(multiply<most_tokens, n, Y, X, W>);
        };
        constexpr int wide = 16 / int(std::max(sizeof(W), sizeof(X)));
        if (x.shape[1] % wide == 0 && all_aligned) go(std::integral_constant<int, wide>{});
        else go(std::integral_constant<int, 1>{});
      });
    });
  });
}

}  // namespace thimble::quant
