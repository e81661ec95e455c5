// INT8 weights on cuda: a warp to a row where rows are reduced, neighbouring lanes at neighbouring codes everywhere.
#include <algorithm>

#include "device/kernel.cuh"
#include "quant/int8.h"

namespace thimble::quant {
namespace {

constexpr int threads = 256;
constexpr int most_tokens = 8;

__device__ __forceinline__ float through_f16(float x) { return __half2float(__float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f))); }

template <class T>
__global__ void pack(int8_t* codes, float* absmax, const T* x, int64_t rows, int64_t columns) {
  const int64_t row = int64_t{blockIdx.x} * (threads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = int(threadIdx.x) % 32;
  float most = 0;
  for (int64_t k = lane; k < columns; k += 32) most = fmaxf(most, fabsf(through_f16(float(x[row * columns + k]))));
  most = warp_reduce(most, Max{});
  if (lane == 0) absmax[row] = most;
  const float scale = most > 0 ? __fdiv_rn(int8_top, most) : 0.0f;
  for (int64_t k = lane; k < columns; k += 32) codes[row * columns + k] = int8_t(__float2int_rn(__fmul_rn(through_f16(float(x[row * columns + k])), scale)));
}

template <class T, int N>
struct Unpack {
  T* to;
  const int8_t* codes;
  const float* absmax;
  int64_t columns;
  __device__ void operator()(int64_t i) const {
    const auto from = load_pack<N>(codes + i * N);
    const float scale = absmax[i * N / columns] * int8_step;
    Pack<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) out.at[k] = T(float(from.at[k]) * scale);
    store_pack<N>(to + i * N, out);
  }
};

// Products that share their tokens, as one list of blocks of rows. c: null, or what is added.
template <class Y>
struct Products {
  struct Product { Y* y; const Y* c; const int8_t* codes; const float* absmax; int64_t rows; int first; };  // first: of its blocks
  Product of[most_few_products];
  int count = 0, blocks = 0;

  explicit Products(std::span<const FewProduct> products) {
    for (const auto& [y, w, c] : products) {
      of[count++] = {at<Y>(y), at<const Y>(c), at<const int8_t>(w->parts[0]), at<const float>(w->parts[1]), w->shape[0], blocks};
      blocks += int(blocks_of(w->shape[0], threads / 32));
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

// A warp to a row, N codes a lane and step, the first ones loaded before x is there; the row's scale multiplies its sum. T: room for tokens.
template <int T, int N, class Y, class X>
__global__ void multiply(const __grid_constant__ Products<Y> products, const X* x, int tokens, int64_t columns) {
  constexpr int at_once = 4, step = 32 * N;
  let_later_begin();
  const auto& p = products.with_block(int(blockIdx.x));
  const int64_t row = int64_t{int(blockIdx.x) - p.first} * (threads / 32) + threadIdx.x / 32;
  if (row >= p.rows) return;
  const int8_t* codes = p.codes + row * columns;
  float sums[T] = {};
  const auto add = [&](const Pack<int8_t, N>& a, int64_t k) {
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
    Pack<int8_t, N> a[at_once];
#pragma unroll
    for (int u = 0; u < at_once; ++u) a[u] = load_pack<N>(codes + k + u * step);
    if (!waited) wait_for_earlier(), waited = true;
#pragma unroll
    for (int u = 0; u < at_once; ++u) add(a[u], k + u * step);
  }
  if (!waited) wait_for_earlier();
  for (; k < columns; k += step) add(load_pack<N>(codes + k), k);
  const float scale = p.absmax[row] * int8_step;
#pragma unroll
  for (int t = 0; t < T; ++t) {
    if (t >= tokens) break;
    const float sum = warp_reduce(sums[t], Add{});
    if (threadIdx.x % 32 == 0) p.y[t * p.rows + row] = Y(__fmul_rn(sum, scale) + (p.c ? float(p.c[t * p.rows + row]) : 0.0f));
  }
}

}  // namespace

void int8_pack_cuda(CudaContext& cuda, const Weight& out, Tensor dense) {
  if (out.shape.count() == 0) return;
  visit_cuda(dense.dtype, [&]<class T>(T) {
    pack<<<unsigned(blocks_of(out.shape[0], threads / 32)), threads, 0, cuda.stream>>>(at<int8_t>(out.parts[0]), at<float>(out.parts[1]), at<const T>(dense), out.shape[0], out.shape[1]);
  });
  check_cuda(cudaGetLastError(), "int8 pack");
}

void int8_unpack_cuda(CudaContext& cuda, Tensor dense, const Weight& w) {
  visit_cuda(dense.dtype, [&]<class T>(T) {
    const auto go = [&]<int n>(std::integral_constant<int, n>) {
      for_each(cuda, w.shape.count() / n, Unpack<T, n>{at<T>(dense), at<const int8_t>(w.parts[0]), at<const float>(w.parts[1]), w.shape[1]});
    };
    if (w.shape[1] % 4 == 0) go(std::integral_constant<int, 4>{});
    else go(std::integral_constant<int, 1>{});
  });
}

void int8_multiply_few_cuda(CudaContext& cuda, Tensor x, std::span<const FewProduct> given) {
  const auto tokens = int(x.shape[0]);
  if (tokens == 0) return;
  const auto aligned = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data) % 16 == 0; };
  const bool all_aligned = aligned(x) && std::all_of(given.begin(), given.end(), [&](const FewProduct& p) { return aligned(p.w->parts[0]); });
  visit_cuda(given.front().y.dtype, [&]<class Y>(Y) {
    visit_cuda(x.dtype, [&]<class X>(X) {
      const Products<Y> products(given);
      if (products.blocks == 0) return;
      const auto go = [&]<int n>(std::integral_constant<int, n>) {
        const int64_t columns = x.shape[1];
        for (int first = 0; first < tokens; first += most_tokens) {
          const auto run = [&](auto kernel) {
            launch_early(cuda, "int8 multiply", unsigned(products.blocks), threads, 0, kernel, products.from_token(first), at<const X>(x) + first * columns, std::min(most_tokens, tokens - first), columns);
          };
          if (tokens == 1) run(multiply<1, n, Y, X>);
          else run(multiply<most_tokens, n, Y, X>);
        }
      };
      constexpr int wide = 16 / int(sizeof(X));
      if (x.shape[1] % wide == 0 && all_aligned) go(std::integral_constant<int, wide>{});
      else go(std::integral_constant<int, 1>{});
    });
  });
}

}  // namespace thimble::quant
