// Rotary embedding on cuda: a thread turns a few channel pairs of a few heads of a token, so that sines and cosines serve several heads.
#include <numeric>

#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

constexpr int64_t heads_each = 4;

template <int N, class X>
struct Turn {
  X* x;
  const int32_t* positions;
  const float* inv_freq;
  int64_t heads, dim, half;
  float factor, direction;
  // i counts (token, group of heads, pack of pairs).
  __device__ void operator()(int64_t i) const {
    const int64_t packs = half / N, groups = (heads + heads_each - 1) / heads_each;
    const int64_t pair = i % packs * N, group = i / packs % groups, token = i / packs / groups;
    const auto position = float(positions[token]);
    float sine[N], cosine[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      sincosf(position * inv_freq[pair + n], &sine[n], &cosine[n]);
      sine[n] *= factor * direction;
      cosine[n] *= factor;
    }
#pragma unroll
    for (int64_t each = 0; each < heads_each; ++each) {
      const int64_t h = group * heads_each + each;
      if (h >= heads) return;
      X* low = x + (token * heads + h) * dim + pair;
      auto a = load_pack<N>(low), b = load_pack<N>(low + half);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const auto p = float(a.at[n]), q = float(b.at[n]);
        a.at[n] = X(p * cosine[n] - q * sine[n]);
        b.at[n] = X(q * cosine[n] + p * sine[n]);
      }
      store_pack<N>(low, a);
      store_pack<N>(low + half, b);
    }
  }
};

}  // namespace

void rope_cuda(CudaContext& cuda, Tensor x, Tensor positions, Tensor inv_freq, float factor, float direction) {
  const int64_t tokens = x.shape[0], heads = x.shape[1], dim = x.shape[2], half = inv_freq.shape[0];
  visit_cuda(x.dtype, [&]<class X>(X) {
    with_width<X>(std::gcd(half, dim), {x}, [&]<int N>(std::integral_constant<int, N>) {
      const Turn<N, X> turn{at<X>(x), at<const int32_t>(positions), at<const float>(inv_freq), heads, dim, half, factor, direction};
      for_each(cuda, tokens * blocks_of(heads, heads_each) * (half / N), turn);
    });
  });
}

}  // namespace thimble::ops
