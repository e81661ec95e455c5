// Attention of our own on cuda, for every case and with the same bits each time: a warp to a query (forward, dq) or to a key (dk, dv).
#include "device/kernel.cuh"
#include "ops/attention.h"

namespace thimble::ops {
namespace {

constexpr int warps = 8;
constexpr int most_parts = 16;  // channels of a lane: heads of up to 512

template <class X>
struct View {
  const X *q, *k, *v, *y, *dy;
  const float *lse, *delta;
  const int32_t* start;
  int64_t tokens, heads, groups, dim, first;
  float scale;
  __device__ int64_t query(int64_t t, int64_t h) const { return (t * heads + h) * dim; }
  __device__ int64_t key(int64_t j, int64_t g) const { return (j * groups + g) * dim; }
};

template <class X>
__device__ float dot(const X* a, const X* b, int64_t dim) {
  float sum = 0;
  for (int64_t d = threadIdx.x % 32; d < dim; d += 32) sum += float(a[d]) * float(b[d]);
  return warp_reduce(sum, Add{});
}

template <class X>
__global__ void forward(View<X> a, X* y, float* lse) {
  const int64_t i = int64_t{blockIdx.x} * warps + threadIdx.x / 32, t = i / a.heads, h = i % a.heads, g = h / (a.heads / a.groups);
  if (t >= a.tokens) return;
  const int lane = threadIdx.x % 32;
  float most = -INFINITY, sum = 0, total[most_parts] = {};
  for (int64_t j = a.start[t]; j <= a.first + t; ++j) {
    const float score = dot(a.q + a.query(t, h), a.k + a.key(j, g), a.dim) * a.scale, now = fmaxf(most, score);
    const float shrink = expf(most - now), p = expf(score - now);
    sum = sum * shrink + p;
    most = now;
#pragma unroll
    for (int n = 0; n < most_parts; ++n)
      if (n * 32 + lane < a.dim) total[n] = total[n] * shrink + p * float(a.v[a.key(j, g) + n * 32 + lane]);
  }
#pragma unroll
  for (int n = 0; n < most_parts; ++n)
    if (n * 32 + lane < a.dim) y[a.query(t, h) + n * 32 + lane] = X(total[n] / sum);
  if (lse && lane == 0) lse[h * a.tokens + t] = most + logf(sum);
}

template <class X>
__global__ void sum_delta(View<X> a, float* delta) {
  const int64_t i = int64_t{blockIdx.x} * warps + threadIdx.x / 32, t = i / a.heads, h = i % a.heads;
  if (t >= a.tokens) return;
  const float sum = dot(a.dy + a.query(t, h), a.y + a.query(t, h), a.dim);
  if (threadIdx.x % 32 == 0) delta[h * a.tokens + t] = sum;
}

template <class X>
__global__ void backward_queries(View<X> a, X* dq) {
  const int64_t i = int64_t{blockIdx.x} * warps + threadIdx.x / 32, t = i / a.heads, h = i % a.heads, g = h / (a.heads / a.groups);
  if (t >= a.tokens) return;
  const int lane = threadIdx.x % 32;
  const float lse = a.lse[h * a.tokens + t], delta = a.delta[h * a.tokens + t];
  float total[most_parts] = {};
  for (int64_t j = a.start[t]; j <= t; ++j) {
    const float p = expf(dot(a.q + a.query(t, h), a.k + a.key(j, g), a.dim) * a.scale - lse);
    const float ds = p * (dot(a.dy + a.query(t, h), a.v + a.key(j, g), a.dim) - delta) * a.scale;
#pragma unroll
    for (int n = 0; n < most_parts; ++n)
      if (n * 32 + lane < a.dim) total[n] += ds * float(a.k[a.key(j, g) + n * 32 + lane]);
  }
#pragma unroll
  for (int n = 0; n < most_parts; ++n)
    if (n * 32 + lane < a.dim) dq[a.query(t, h) + n * 32 + lane] = X(total[n]);
}

template <class X>
__global__ void backward_keys(View<X> a, X* dk, X* dv) {
  const int64_t i = int64_t{blockIdx.x} * warps + threadIdx.x / 32, j = i / a.groups, g = i % a.groups, each = a.heads / a.groups;
  if (j >= a.tokens) return;
  const int lane = threadIdx.x % 32;
  float keys[most_parts] = {}, values[most_parts] = {};
  for (int64_t t = j; t < a.tokens && a.start[t] <= j; ++t)  // starts never fall
    for (int64_t h = g * each; h < (g + 1) * each; ++h) {
      const float p = expf(dot(a.q + a.query(t, h), a.k + a.key(j, g), a.dim) * a.scale - a.lse[h * a.tokens + t]);
      const float ds = p * (dot(a.dy + a.query(t, h), a.v + a.key(j, g), a.dim) - a.delta[h * a.tokens + t]) * a.scale;
#pragma unroll
      for (int n = 0; n < most_parts; ++n)
        if (n * 32 + lane < a.dim) {
          keys[n] += ds * float(a.q[a.query(t, h) + n * 32 + lane]);
          values[n] += p * float(a.dy[a.query(t, h) + n * 32 + lane]);
        }
    }
#pragma unroll
  for (int n = 0; n < most_parts; ++n)
    if (n * 32 + lane < a.dim) {
      dk[a.key(j, g) + n * 32 + lane] = X(keys[n]);
      dv[a.key(j, g) + n * 32 + lane] = X(values[n]);
    }
}

template <class X>
View<X> view_of(Tensor q, Tensor k, Tensor v, const AttentionShape& a) {
  return {.q = at<const X>(q), .k = at<const X>(k), .v = at<const X>(v), .start = at<const int32_t>(a.start), .tokens = q.shape[0], .heads = q.shape[1],
          .groups = k.shape[1], .dim = q.shape[2], .first = a.first, .scale = a.scale};
}

}  // namespace

void attention_cuda(CudaContext& cuda, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& a) {
  if (q.count() == 0) return;
  visit_cuda(q.dtype, [&]<class X>(X) {
    forward<<<unsigned(blocks_of(q.shape[0] * q.shape[1], warps)), warps * 32, 0, cuda.stream>>>(view_of<X>(q, k, v, a), at<X>(y), at<float>(lse));
  });
  check_cuda(cudaGetLastError(), "attention");
}

void attention_backward_cuda(CudaContext& cuda, const AttentionGrad& g, Tensor delta, Tensor dy, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v,
                             const AttentionShape& a) {
  if (q.count() == 0) return;
  visit_cuda(q.dtype, [&]<class X>(X) {
    View<X> view = view_of<X>(q, k, v, a);
    view.y = at<const X>(y), view.dy = at<const X>(dy), view.lse = at<const float>(lse), view.delta = at<const float>(delta);
    const auto by_query = unsigned(blocks_of(q.shape[0] * q.shape[1], warps)), by_key = unsigned(blocks_of(k.shape[0] * k.shape[1], warps));
    sum_delta<<<by_query, warps * 32, 0, cuda.stream>>>(view, at<float>(delta));
    backward_queries<<<by_query, warps * 32, 0, cuda.stream>>>(view, at<X>(g.dq));
    backward_keys<<<by_key, warps * 32, 0, cuda.stream>>>(view, at<X>(g.dk), at<X>(g.dv));
  });
  check_cuda(cudaGetLastError(), "attention_backward");
}

}  // namespace thimble::ops
