// Rotary embedding on cuda: a thread turns a few channel pairs of a few heads of a token, so that sines and cosines serve several heads.
#include <numeric>
#include <span>

#include "device/kernel.cuh"

namespace thimble::ops {
namespace {

constexpr int64_t heads_each = 4;

// One tensor or two, whose groups of heads follow each other.
template <int N, class X>
struct Turn {
  X* of[2];
  int64_t heads_of[2], groups_of[2];
  const int32_t* positions;
  const float* inv_freq;
  int64_t dim, half;
  float factor, direction;
  // i counts (token, group of heads, pack of pairs).
  __device__ void operator()(int64_t i) const {
    const int64_t packs = half / N, groups = groups_of[0] + groups_of[1];
    const int64_t pair = i % packs * N, any = i / packs % groups, token = i / packs / groups;
    const bool second = any >= groups_of[0];
    X* const x = second ? of[1] : of[0];
    const int64_t heads = second ? heads_of[1] : heads_of[0], group = second ? any - groups_of[0] : any;
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

void rope_cuda(CudaContext& cuda, std::span<const Tensor> xs, Tensor positions, Tensor inv_freq, float factor, float direction) {
  const Tensor a = xs.front(), b = xs.size() > 1 ? xs.back() : Tensor{nullptr, a.dtype, {a.shape[0], 0, a.shape[2]}};
  const int64_t tokens = a.shape[0], dim = a.shape[2], half = inv_freq.shape[0];
  visit_cuda(a.dtype, [&]<class X>(X) {
    with_width<X>(std::gcd(half, dim), {a, b}, [&]<int N>(std::integral_constant<int, N>) {
      const Turn<N, X> turn{{at<X>(a), at<X>(b)}, {a.shape[1], b.shape[1]}, {blocks_of(a.shape[1], heads_each), blocks_of(b.shape[1], heads_each)},
                            at<const int32_t>(positions), at<const float>(inv_freq), dim, half, factor, direction};
      for_each(cuda, tokens * (turn.groups_of[0] + turn.groups_of[1]) * (half / N), turn);
    });
  });
}

}  // namespace thimble::ops
