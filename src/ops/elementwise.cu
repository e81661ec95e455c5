// The plain ops on cuda: 16 bytes an access. The sum of squares is cut into a fixed number of stripes, whose sums are added in order.
#include "device/kernel.cuh"
#include "quant/dense.h"

namespace thimble::ops {
namespace {

constexpr int threads = 256;

template <class X, int N>
struct AddTo {
  X* y;
  const X* x;
  __device__ void operator()(int64_t i) const {
    auto a = load_pack<N>(y + i * N);
    const auto b = load_pack<N>(x + i * N);
    for (int k = 0; k < N; ++k) a.at[k] = X(float(a.at[k]) + float(b.at[k]));
    store_pack<N>(y + i * N, a);
  }
};

struct Times {
  float factor;
  __device__ float operator()(float x) const { return factor * x; }
};
struct Cap {
  float cap;
  __device__ float operator()(float x) const { return cap * tanhf(x / cap); }
};
template <class F, class X, int N>
struct InPlace {
  F f;
  X* y;
  __device__ void operator()(int64_t i) const {
    auto a = load_pack<N>(y + i * N);
    for (int k = 0; k < N; ++k) a.at[k] = X(f(float(a.at[k])));
    store_pack<N>(y + i * N, a);
  }
};

template <class F>
void in_place(CudaContext& cuda, Tensor y, const F& f) {
  visit_cuda(y.dtype, [&]<class X>(X) {
    with_width<X>(y.count(), {y}, [&]<int n>(std::integral_constant<int, n>) { for_each(cuda, y.count() / n, InPlace<F, X, n>{f, at<X>(y)}); });
  });
}

template <int N>
__global__ void squares_of_stripe(double* parts, const float* x, int64_t n) {
  const int64_t stride = int64_t{gridDim.x} * threads;
  double total = 0;
  for (int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x; i < n / N; i += stride) {
    const auto a = load_pack<N>(x + i * N);
    float part = 0;
    for (int k = 0; k < N; ++k) part += a.at[k] * a.at[k];
    total += double(part);
  }
  total = block_reduce<threads>(total, Add{});
  if (threadIdx.x == 0) parts[blockIdx.x] = total;
}

__global__ void add_parts(float* sum, const double* parts, int n) {
  double total = 0;
  for (int i = int(threadIdx.x); i < n; i += threads) total += parts[i];
  total = block_reduce<threads>(total, Add{});
  if (threadIdx.x == 0) *sum += float(total);
}

}  // namespace

void zero_cuda(CudaContext& cuda, Tensor y) { check_cuda(cudaMemsetAsync(y.data, 0, size_t(y.bytes()), cuda.stream), "cudaMemsetAsync"); }

void convert_cuda(CudaContext& cuda, Tensor y, Tensor x) { quant::dense_convert_cuda(cuda, y, x); }

void add_cuda(CudaContext& cuda, Tensor y, Tensor x) {
  visit_cuda(y.dtype, [&]<class X>(X) {
    with_width<X>(y.count(), {x, y}, [&]<int n>(std::integral_constant<int, n>) { for_each(cuda, y.count() / n, AddTo<X, n>{at<X>(y), at<const X>(x)}); });
  });
}

void scale_cuda(CudaContext& cuda, Tensor y, float factor) { in_place(cuda, y, Times{factor}); }
void soft_cap_cuda(CudaContext& cuda, Tensor y, float cap) { in_place(cuda, y, Cap{cap}); }

void sum_of_squares_cuda(CudaContext& cuda, Tensor sum, Tensor parts, Tensor x) {
  const int stripes = int(parts.bytes() / int64_t{sizeof(double)});
  const auto go = [&](auto n) { squares_of_stripe<n.value><<<unsigned(stripes), threads, 0, cuda.stream>>>(at<double>(parts), at<const float>(x), x.count()); };
  with_width<float>(x.count(), {x}, go);
  add_parts<<<1, threads, 0, cuda.stream>>>(at<float>(sum), at<const double>(parts), stripes);
  check_cuda(cudaGetLastError(), "sum_of_squares");
}

}  // namespace thimble::ops
