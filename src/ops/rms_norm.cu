// Root-mean-square norm on cuda: a block per token; dw is summed by stripes of tokens into `partial`, whose rows are then added in
// order, so that the result depends on no timing. Loads are 16 bytes wide where rows allow it.
#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

constexpr int threads = 256;

// x * rstd * (w + offset) of a pack, rounded; then `more`, if any, is added.
template <int N, class X, class W>
__device__ Pack<X, N> scaled(const Pack<X, N>& x, float rstd, const W* w, float offset, const Pack<X, N>* more) {
  Pack<X, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    y.at[i] = X(float(x.at[i]) * rstd * (float(w[i]) + offset));
    if (more) y.at[i] = X(__fadd_rn(float(y.at[i]), float(more->at[i])));
  }
  return y;
}
template <int N, class X>
__device__ float squares_of(const Pack<X, N>& x, float sum) {
#pragma unroll
  for (int i = 0; i < N; ++i) sum += float(x.at[i]) * float(x.at[i]);
  return sum;
}

// `packs` to each thread, kept between the sum and the scaling; 0: as many as there are, read twice. Weights, which no kernel writes, come before the
// kernel before has ended.
template <int N, int packs, class X, class W>
__global__ void __launch_bounds__(threads) forward(X* y, float* rstd, const X* x, const W* w, const X* plus, int64_t channels, float eps, float offset) {
  const int64_t t = blockIdx.x, first = int64_t{threadIdx.x} * N, step = threads * N;
  x += t * channels, y += t * channels, plus = plus ? plus + t * channels : nullptr;
  let_later_begin();
  const auto rstd_of = [&](float squares) {
    const float r = 1.0f / sqrtf(block_reduce<threads>(squares, Add{}) / float(channels) + eps);
    if (threadIdx.x == 0) rstd[t] = r;
    return r;
  };
  if constexpr (packs > 0) {
    Pack<X, N> own[packs] = {}, more[packs] = {};
    W weights[packs][N];
    const auto each = [&](auto&& f) {
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (const int64_t c = first + p * step; c < channels) f(p, c);
    };
    each([&](int p, int64_t c) {
#pragma unroll
      for (int i = 0; i < N; ++i) weights[p][i] = w[c + i];
    });
    wait_for_earlier();
    each([&](int p, int64_t c) {
      own[p] = load_pack<N>(x + c);
      if (plus) more[p] = load_pack<N>(plus + c);
    });
    float squares = 0;
    each([&](int p, int64_t) { squares = squares_of(own[p], squares); });
    const float r = rstd_of(squares);
    each([&](int p, int64_t c) { store_pack(y + c, scaled(own[p], r, weights[p], offset, plus ? &more[p] : nullptr)); });
  } else {
    wait_for_earlier();
    float squares = 0;
    for (int64_t c = first; c < channels; c += step) squares = squares_of(load_pack<N>(x + c), squares);
    const float r = rstd_of(squares);
    for (int64_t c = first; c < channels; c += step) {
      Pack<X, N> more = {};
      if (plus) more = load_pack<N>(plus + c);
      store_pack(y + c, scaled(load_pack<N>(x + c), r, w + c, offset, plus ? &more : nullptr));
    }
  }
}

template <int N, class X, class W>
__global__ void backward(X* dx, const X* dy, const X* x, const W* w, const float* rstd, int64_t channels, float offset) {
  const int64_t t = blockIdx.x, row = t * channels;
  const float r = rstd[t];
  float products = 0;
  for (int64_t c = threadIdx.x * N; c < channels; c += threads * N) {
    const auto a = load_pack<N>(x + row + c), d = load_pack<N>(dy + row + c);
    for (int i = 0; i < N; ++i) products += float(d.at[i]) * (float(w[c + i]) + offset) * float(a.at[i]);
  }
  const float along = block_reduce<threads>(products, Add{}) / float(channels) * r * r;
  for (int64_t c = threadIdx.x * N; c < channels; c += threads * N) {
    const auto a = load_pack<N>(x + row + c), d = load_pack<N>(dy + row + c);
    auto out = load_pack<N>(dx + row + c);
    for (int i = 0; i < N; ++i) out.at[i] = X(float(out.at[i]) + r * (float(d.at[i]) * (float(w[c + i]) + offset) - float(a.at[i]) * along));
    store_pack<N>(dx + row + c, out);
  }
}

// partial (stripes, C): stripe s sums the tokens s, s + stripes, ...
template <class X>
__global__ void weight_stripe(float* partial, const X* dy, const X* x, const float* rstd, int64_t tokens, int64_t channels) {
  const int64_t c = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (c >= channels) return;
  float total = 0;
  for (int64_t t = blockIdx.y; t < tokens; t += gridDim.y) total += float(dy[t * channels + c]) * float(x[t * channels + c]) * rstd[t];
  partial[blockIdx.y * channels + c] = total;
}

__global__ void add_stripes(float* dw, const float* partial, int64_t stripes, int64_t channels) {
  const int64_t c = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (c >= channels) return;
  float total = 0;
  for (int64_t s = 0; s < stripes; ++s) total += partial[s * channels + c];
  dw[c] += total;
}

// f(x, w, n): values of the types of the activations and of the weight, and how many elements a load takes.
template <class F>
void visit(Tensor x, Tensor plus, Tensor w, F&& f) {
  visit_cuda(x.dtype, [&]<class X>(X) {
    visit_cuda(w.dtype, [&]<class W>(W) {
      with_width<X>(x.shape[1], {x, plus}, [&](auto n) { f(X{}, W{}, n); });
    });
  });
}

}  // namespace

void rms_norm_cuda(CudaContext& cuda, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps, float offset, Tensor plus) {
  if (x.count() == 0) return;
  visit(x, plus, w, [&]<class X, class W, int n>(X, W, std::integral_constant<int, n>) {
    const auto go = [&]<int packs>(std::integral_constant<int, packs>) {
      launch_early(cuda, "rms_norm", unsigned(x.shape[0]), threads, 0, forward<n, packs, X, W>, at<X>(y), at<float>(rstd), at<const X>(x), at<const W>(w), at<const X>(plus), x.shape[1], eps, offset);
    };
    const int64_t wanted = blocks_of(x.shape[1], threads * n);
    if (n == 1 || wanted > 4) go(std::integral_constant<int, 0>{});
    else if (wanted > 2) go(std::integral_constant<int, 4>{});
    else if (wanted > 1) go(std::integral_constant<int, 2>{});
    else go(std::integral_constant<int, 1>{});
  });
}

void rms_norm_backward_cuda(CudaContext& cuda, Tensor dx, Tensor dw, Tensor partial, Tensor dy, Tensor x, Tensor w, Tensor rstd, float offset) {
  if (x.count() == 0) return;
  const int64_t tokens = x.shape[0], channels = x.shape[1];
  visit(x, {}, w, [&]<class X, class W, int n>(X, W, std::integral_constant<int, n>) {
    backward<n><<<unsigned(tokens), threads, 0, cuda.stream>>>(at<X>(dx), at<const X>(dy), at<const X>(x), at<const W>(w),
                                                               at<const float>(rstd), channels, offset);
    if (!dw) return;
    const auto blocks = unsigned((channels + threads - 1) / threads);
    const dim3 stripes(blocks, unsigned(partial.shape[0]));
    weight_stripe<<<stripes, threads, 0, cuda.stream>>>(at<float>(partial), at<const X>(dy), at<const X>(x), at<const float>(rstd), tokens,
                                                        channels);
    add_stripes<<<blocks, threads, 0, cuda.stream>>>(at<float>(dw), at<const float>(partial), partial.shape[0], channels);
  });
  check_cuda(cudaGetLastError(), "rms_norm_backward");
}

}  // namespace thimble::ops
