// Gated activation on cuda: elementwise, 16 bytes an access; each value is read before anything is written in its place.
#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <class X, int N>
struct Forward {
  X* y;
  const X *gate, *up;
  __device__ void operator()(int64_t i) const {
    const auto g = load_pack<N>(gate + i * N), u = load_pack<N>(up + i * N);
    Pack<X, N> out;
    for (int k = 0; k < N; ++k) out.at[k] = X(float(g.at[k]) * sigmoid(float(g.at[k])) * float(u.at[k]));
    store_pack<N>(y + i * N, out);
  }
};

template <class X, int N>
struct Backward {
  X *dgate, *dup;
  const X *dy, *gate, *up;
  __device__ void operator()(int64_t i) const {
    const auto g = load_pack<N>(gate + i * N), u = load_pack<N>(up + i * N), d = load_pack<N>(dy + i * N);
    Pack<X, N> dg, du;
    for (int k = 0; k < N; ++k) {
      const float a = float(g.at[k]), b = float(u.at[k]), c = float(d.at[k]), p = sigmoid(a);
      dg.at[k] = X(c * b * p * (1.0f + a * (1.0f - p)));
      du.at[k] = X(c * a * p);
    }
    store_pack<N>(dgate + i * N, dg);
    store_pack<N>(dup + i * N, du);
  }
};

}  // namespace

void swiglu_cuda(CudaContext& cuda, Tensor y, Tensor gate, Tensor up) {
  visit_cuda(y.dtype, [&]<class X>(X) {
    with_width<X>(y.count(), {y, gate, up}, [&]<int n>(std::integral_constant<int, n>) {
      for_each(cuda, y.count() / n, Forward<X, n>{at<X>(y), at<const X>(gate), at<const X>(up)});
    });
  });
}

void swiglu_backward_cuda(CudaContext& cuda, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up) {
  visit_cuda(dy.dtype, [&]<class X>(X) {
    with_width<X>(dy.count(), {dgate, dup, dy, gate, up}, [&]<int n>(std::integral_constant<int, n>) {
      for_each(cuda, dy.count() / n, Backward<X, n>{at<X>(dgate), at<X>(dup), at<const X>(dy), at<const X>(gate), at<const X>(up)});
    });
  });
}

}  // namespace thimble::ops
