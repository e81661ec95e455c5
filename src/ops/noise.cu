// See noise.cpp: the same draws, a thread for each four channels.
#include "device/kernel.cuh"
#include "device/philox.cuh"

namespace thimble::ops {
namespace {

constexpr int drawn_at_once = 4;

struct Draw {
  const int* key;
  uint32_t place;
  __device__ void operator()(uint32_t (&bits)[4], int64_t token, int64_t packs, int64_t pack) const {
    philox(bits, uint64_t{uint32_t(key[1])} << 32 | uint32_t(key[0]), uint64_t{uint32_t(key[2])} << 32 | place, uint64_t((key[3] + token) * packs + pack));
  }
};

__device__ float to_unit(uint32_t bits) { return float(bits >> 8) * 0x1p-24f; }

template <class X>
struct Dropout {
  X* y;
  const X *x, *c;
  float share, factor;
  int64_t channels, packs;
  Draw draw;
  __device__ void operator()(int64_t i) const {
    const int64_t token = i / packs, pack = i % packs, first = token * channels + pack * drawn_at_once;
    uint32_t bits[4];
    draw(bits, token, packs, pack);
    for (int k = 0; k < drawn_at_once && pack * drawn_at_once + k < channels; ++k)
      y[first + k] = X((to_unit(bits[k]) >= share ? float(x[first + k]) * factor : 0.0f) + (c ? float(c[first + k]) : 0.0f));
  }
};

template <class Y>
struct AddNoise {
  Y* y;
  float size;
  int64_t channels, packs;
  Draw draw;
  __device__ void operator()(int64_t i) const {
    const int64_t token = i / packs, pack = i % packs, first = token * channels + pack * drawn_at_once;
    uint32_t bits[4];
    draw(bits, token, packs, pack);
    for (int k = 0; k < drawn_at_once && pack * drawn_at_once + k < channels; ++k) y[first + k] = Y(float(y[first + k]) + size * (2 * to_unit(bits[k]) - 1));
  }
};

}  // namespace

void dropout_cuda(CudaContext& cuda, Tensor y, Tensor x, Tensor c, float share, Tensor key, uint32_t place) {
  const int64_t channels = x.shape[1], packs = blocks_of(channels, drawn_at_once);
  visit_cuda(x.dtype, [&]<class X>(X) {
    for_each(cuda, x.shape[0] * packs, Dropout<X>{at<X>(y), at<const X>(x), at<const X>(c), share, 1.0f / (1.0f - share), channels, packs, {at<const int>(key), place}});
  });
}

void add_noise_cuda(CudaContext& cuda, Tensor y, float size, Tensor key, uint32_t place) {
  const int64_t channels = y.shape[1], packs = blocks_of(channels, drawn_at_once);
  visit_cuda(y.dtype, [&]<class Y>(Y) { for_each(cuda, y.shape[0] * packs, AddNoise<Y>{at<Y>(y), size, channels, packs, {at<const int>(key), place}}); });
}

}  // namespace thimble::ops
