// Bias on cuda: stripes of tokens are summed apart and added in order, so that the result depends on no timing.
#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

constexpr int threads = 256;

template <class Y, class B, int N>
struct AddRows {
  Y* y;
  const B* b;
  int64_t packs;  // of a row
  __device__ void operator()(int64_t i) const {
    auto a = load_pack<N>(y + i * N);
    const B* from = b + i % packs * N;
    for (int k = 0; k < N; ++k) a.at[k] = Y(float(a.at[k]) + float(from[k]));
    store_pack<N>(y + i * N, a);
  }
};

// partial (stripes, N): stripe s sums the tokens s, s + stripes, ...
template <class Y>
__global__ void sum_stripe(float* partial, const Y* dy, int64_t tokens, int64_t channels) {
  const int64_t c = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (c >= channels) return;
  float total = 0;
  for (int64_t t = blockIdx.y; t < tokens; t += gridDim.y) total += float(dy[t * channels + c]);
  partial[blockIdx.y * channels + c] = total;
}

__global__ void add_stripes(float* db, const float* partial, int64_t stripes, int64_t channels) {
  const int64_t c = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (c >= channels) return;
  float total = 0;
  for (int64_t s = 0; s < stripes; ++s) total += partial[s * channels + c];
  db[c] += total;
}

}  // namespace

void add_bias_cuda(CudaContext& cuda, Tensor y, Tensor b) {
  visit_cuda(y.dtype, [&]<class Y>(Y) {
    visit_cuda(b.dtype, [&]<class B>(B) {
      with_width<Y>(y.shape[1], {y}, [&]<int n>(std::integral_constant<int, n>) {
        for_each(cuda, y.count() / n, AddRows<Y, B, n>{at<Y>(y), at<const B>(b), y.shape[1] / n});
      });
    });
  });
}

void add_bias_backward_cuda(CudaContext& cuda, Tensor db, Tensor partial, Tensor dy) {
  if (dy.count() == 0) return;
  const int64_t channels = dy.shape[1];
  const auto blocks = unsigned(blocks_of(channels, threads));
  visit_cuda(dy.dtype, [&]<class Y>(Y) {
    sum_stripe<<<dim3(blocks, unsigned(partial.shape[0])), threads, 0, cuda.stream>>>(at<float>(partial), at<const Y>(dy), dy.shape[0], channels);
  });
  add_stripes<<<blocks, threads, 0, cuda.stream>>>(at<float>(db), at<const float>(partial), partial.shape[0], channels);
  check_cuda(cudaGetLastError(), "add_bias_backward");
}

}  // namespace thimble::ops
