// Rotary embedding on cuda: a thread turns one channel pair of all heads of a token, so that its sine and cosine are computed once.
#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

template <class X>
struct Turn {
  X* x;
  const int32_t* positions;
  const float* inv_freq;
  int64_t heads, half;
  float factor, direction;
  __device__ void operator()(int64_t i) const {
    const int64_t token = i / half, pair = i % half;
    float sine, cosine;
    sincosf(float(positions[token]) * inv_freq[pair], &sine, &cosine);
    sine *= factor * direction;
    cosine *= factor;
    X* low = x + token * heads * 2 * half + pair;
    for (int64_t h = 0; h < heads; ++h, low += 2 * half) {
      const float a = float(low[0]), b = float(low[half]);
      low[0] = X(a * cosine - b * sine);
      low[half] = X(b * cosine + a * sine);
    }
  }
};

}  // namespace

void rope_cuda(CudaContext& cuda, Tensor x, Tensor positions, Tensor inv_freq, float factor, float direction) {
  const int64_t half = x.shape[2] / 2;
  visit_cuda(x.dtype, [&]<class X>(X) {
    for_each(cuda, x.shape[0] * half, Turn<X>{at<X>(x), at<const int32_t>(positions), at<const float>(inv_freq), x.shape[1], half, factor, direction});
  });
}

}  // namespace thimble::ops
