// DoRA on cuda: a block for each row's squares, a thread for each norm, packs of channels elsewhere.
#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

constexpr int threads = 256;

template <class W>
__global__ void squares_of_row(float* squares, const W* w, int64_t n) {
  const W* row = w + int64_t{blockIdx.x} * n;
  double total = 0;
  for (int64_t i = threadIdx.x; i < n; i += threads) {
    const float x = float(row[i]);
    total += double(x * x);
  }
  total = block_reduce<threads>(total, Add{});
  if (threadIdx.x == 0) squares[blockIdx.x] = float(total);
}

template <class B>
struct Norm {
  float* norm;
  const float* squares;
  const B* wa;  // (R, N)
  const float* aa;
  const B* b;  // (N, R)
  int64_t n, rank;
  float scale;
  __device__ void operator()(int64_t i) const {
    const B* row = b + i * rank;
    double across = 0, own = 0;
    for (int64_t r = 0; r < rank; ++r) {
      double sum = 0;
      for (int64_t q = 0; q < rank; ++q) sum += double(aa[r * rank + q]) * double(float(row[q]));
      own += sum * double(float(row[r]));
      across += double(float(wa[r * n + i])) * double(float(row[r]));
    }
    const double square = double(squares[i]) + 2.0 * double(scale) * across + double(scale) * double(scale) * own;
    norm[i] = float(sqrt(fmax(square, 0.0)));
  }
};

template <class X, int N>
struct ScaleChannels {
  X* y;
  const X* x;
  const float *magnitude, *norm;
  int64_t packs;  // of a row
  __device__ void operator()(int64_t i) const {
    auto a = load_pack<N>(x + i * N);
    const int64_t c = i % packs * N;
    for (int k = 0; k < N; ++k) a.at[k] = X(float(a.at[k]) * (magnitude[c + k] / norm[c + k]));
    store_pack<N>(y + i * N, a);
  }
};

template <class X, int N>
struct Products {
  X* z;
  const X* dy;
  const float* norm;
  int64_t packs;
  __device__ void operator()(int64_t i) const {
    auto a = load_pack<N>(z + i * N);
    const auto d = load_pack<N>(dy + i * N);
    const int64_t c = i % packs * N;
    for (int k = 0; k < N; ++k) a.at[k] = X(float(a.at[k]) * float(d.at[k]) / norm[c + k]);
    store_pack<N>(z + i * N, a);
  }
};

}  // namespace

void row_squares_cuda(CudaContext& cuda, Tensor squares, Tensor w) {
  if (w.shape[0] == 0) return;
  visit_cuda(w.dtype, [&]<class W>(W) {
    squares_of_row<<<unsigned(w.shape[0]), threads, 0, cuda.stream>>>(at<float>(squares), at<const W>(w), w.shape[1]);
  });
  check_cuda(cudaGetLastError(), "row_squares");
}

void dora_norm_cuda(CudaContext& cuda, Tensor norm, Tensor squares, Tensor wa, Tensor aa, Tensor b, float scale) {
  visit_cuda(b.dtype, [&]<class B>(B) {
    for_each(cuda, norm.count(), Norm<B>{at<float>(norm), at<const float>(squares), at<const B>(wa), at<const float>(aa), at<const B>(b), norm.count(), b.shape[1], scale});
  });
}

void dora_scale_cuda(CudaContext& cuda, Tensor y, Tensor x, Tensor magnitude, Tensor norm) {
  visit_cuda(x.dtype, [&]<class X>(X) {
    with_width<X>(x.shape[1], {x, y}, [&]<int n>(std::integral_constant<int, n>) {
      for_each(cuda, x.count() / n, ScaleChannels<X, n>{at<X>(y), at<const X>(x), at<const float>(magnitude), at<const float>(norm), x.shape[1] / n});
    });
  });
}

void dora_products_cuda(CudaContext& cuda, Tensor z, Tensor dy, Tensor norm) {
  visit_cuda(z.dtype, [&]<class X>(X) {
    with_width<X>(z.shape[1], {z, dy}, [&]<int n>(std::integral_constant<int, n>) {
      for_each(cuda, z.count() / n, Products<X, n>{at<X>(z), at<const X>(dy), at<const float>(norm), z.shape[1] / n});
    });
  });
}

}  // namespace thimble::ops
