// Rotary embedding on cuda: a thread turns a few channel pairs of a few heads of a token, so that sines and cosines serve several heads.
#include <numeric>
#include <span>

#include "device/kernel.cuh"
#include "ops/head_norm.cuh"
#include "ops/rope.h"

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

// A warp norms and turns a head of one tensor or of two.
constexpr int warps = 4;
template <class X, class W>
struct Normed {
  X* of[2];
  const W* weight[2];
  int heads_of[2];
  const int32_t* positions;
  const float* inv_freq;
  int dim, half;
  float eps, offset, factor;
};
template <class X, class W>
__global__ void __launch_bounds__(32 * warps) norm_and_turn_heads(const Normed<X, W> n, int64_t count) {
  __shared__ X rows[warps][most_normed_channels];
  X* const row = rows[threadIdx.x / 32];
  const int64_t i = int64_t{blockIdx.x} * warps + threadIdx.x / 32;
  let_later_begin();
  wait_for_earlier();
  if (i >= count) return;
  const int heads = n.heads_of[0] + n.heads_of[1], any = int(i % heads), which = any >= n.heads_of[0];
  const int64_t token = i / heads;
  X* const x = n.of[which] + (token * n.heads_of[which] + (which ? any - n.heads_of[0] : any)) * n.dim;
  const auto position = float(n.positions[token]);
  norm_and_turn(row, x, n.dim, n.half, n.eps, [&](int c) { return float(n.weight[which][c]) + n.offset; }, [&](int c) { return angle_of(position, n.inv_freq[c], n.factor); },
                [&](int c, X y) { x[c] = y; });
}

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

void norm_and_rope_cuda(CudaContext& cuda, std::span<const Tensor> xs, const HeadNorms& norms, Tensor positions, Tensor inv_freq, float factor) {
  const Tensor a = xs.front(), b = xs.size() > 1 ? xs.back() : Tensor{nullptr, a.dtype, {a.shape[0], 0, a.shape[2]}};
  visit_cuda(a.dtype, [&]<class X>(X) {
    visit_cuda(norms.weight[0].dtype, [&]<class W>(W) {
      const Normed<X, W> normed{{at<X>(a), at<X>(b)}, {at<const W>(norms.weight[0]), at<const W>(norms.weight[1])}, {int(a.shape[1]), int(b.shape[1])},
                                at<const int32_t>(positions), at<const float>(inv_freq), int(a.shape[2]), int(inv_freq.shape[0]), norms.eps, norms.offset, factor};
      const int64_t count = a.shape[0] * (a.shape[1] + b.shape[1]);
      if (count > 0) launch_early(cuda, "norm and rope", unsigned(blocks_of(count, warps)), 32 * warps, 0, norm_and_turn_heads<X, W>, normed, count);
    });
  });
}

}  // namespace thimble::ops
