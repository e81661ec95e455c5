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

// T: room for tokens. The loads of several steps along a row are under way together.
template <int T, int N, class Y, class X, class W>
__global__ void multiply(Y* y, const X* x, const W* w, int tokens, int64_t rows, int64_t columns) {
  const int64_t row = int64_t{blockIdx.x} * (threads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
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
  constexpr int at_once = 8, step = 32 * N;
  int64_t k = int64_t{threadIdx.x} % 32 * N;
  for (; k + (at_once - 1) * step < columns; k += at_once * step) {
    Pack<W, N> a[at_once];
#pragma unroll
    for (int u = 0; u < at_once; ++u) a[u] = load_pack<N>(w + row * columns + k + u * step);
#pragma unroll
    for (int u = 0; u < at_once; ++u) add(a[u], k + u * step);
  }
  for (; k < columns; k += step) add(load_pack<N>(w + row * columns + k), k);
#pragma unroll
  for (int t = 0; t < T; ++t) {
    if (t >= tokens) break;
    const float sum = warp_reduce(sums[t], Add{});
    if (threadIdx.x % 32 == 0) y[t * rows + row] = Y(sum);
  }
}

}  // namespace

void dense_convert_cuda(CudaContext& cuda, Tensor y, Tensor x) {
  visit_cuda(y.dtype, [&]<class Y>(Y) {
    visit_cuda(x.dtype, [&]<class X>(X) {
      if (x.count() % 4 == 0) for_each(cuda, x.count() / 4, Convert<Y, X, 4>{at<Y>(y), at<const X>(x)});
      else for_each(cuda, x.count(), Convert<Y, X, 1>{at<Y>(y), at<const X>(x)});
    });
  });
}

void dense_multiply_few_cuda(CudaContext& cuda, Tensor y, Tensor x, const Weight& w) {
  const int64_t rows = w.shape[0], columns = w.shape[1];
  if (rows == 0 || x.shape[0] == 0) return;
  const auto blocks = unsigned(blocks_of(rows, threads / 32));
  visit_cuda(y.dtype, [&]<class Y>(Y) {
    visit_cuda(x.dtype, [&]<class X>(X) {
      visit_cuda(w.dense().dtype, [&]<class W>(W) {
        const auto go = [&]<int n>(std::integral_constant<int, n>) {
          const auto tokens = int(x.shape[0]);
          const auto run = [&](auto kernel) { kernel<<<blocks, threads, 0, cuda.stream>>>(at<Y>(y), at<const X>(x), at<const W>(w.dense()), tokens, rows, columns); };
          if (tokens == 1) run(multiply<1, n, Y, X, W>);
          else run(multiply<most_tokens, n, Y, X, W>);
        };
        constexpr int wide = 16 / int(std::max(sizeof(W), sizeof(X)));
        const auto aligned = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; };
        if (columns % wide == 0 && aligned(x) && aligned(w.dense())) go(std::integral_constant<int, wide>{});
        else go(std::integral_constant<int, 1>{});
      });
    });
  });
  check_cuda(cudaGetLastError(), "dense multiply");
}

}  // namespace thimble::quant
