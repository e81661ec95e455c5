// Attention on cuda for every type and head dim: a warp per query, or per key for dk and dv, in f32, with a row in its registers.
// Slow but exact; what the tensor cores' kernels do not take comes here.
#include <cuda_fp16.h>

#include "ops/attention_cuda.cuh"

namespace thimble::ops {
namespace {

constexpr int warps = 8;
constexpr int widest_head = 512;

// 32 C channels of a row, of which a lane holds the channels lane + 32 i.
template <int C>
struct Row {
  float at[C];
  Row() = default;
  __device__ static Row zero() {
    Row r;
    for (int i = 0; i < C; ++i) r.at[i] = 0;
    return r;
  }
  template <class X>
  __device__ static Row read(const X* p, int dim) {
    Row r;
#pragma unroll
    for (int i = 0; i < C; ++i) {
      const int c = int(threadIdx.x) % 32 + 32 * i;
      r.at[i] = c < dim ? float(p[c]) : 0.0f;
    }
    return r;
  }
  template <class X>
  __device__ void write(X* p, int dim, float factor) const {
#pragma unroll
    for (int i = 0; i < C; ++i) {
      const int c = int(threadIdx.x) % 32 + 32 * i;
      if (c < dim) p[c] = X(at[i] * factor);
    }
  }
  __device__ void shrink_and_add(float shrink, float factor, const Row& x) {
#pragma unroll
    for (int i = 0; i < C; ++i) at[i] = fmaf(factor, x.at[i], at[i] * shrink);
  }
  __device__ void add(float factor, const Row& x) {
#pragma unroll
    for (int i = 0; i < C; ++i) at[i] = fmaf(factor, x.at[i], at[i]);
  }
};

template <int C>
__device__ float dot(const Row<C>& a, const Row<C>& b) {
  float total = 0;
#pragma unroll
  for (int i = 0; i < C; ++i) total = fmaf(a.at[i], b.at[i], total);
#pragma unroll
  for (int d = 16; d > 0; d /= 2) total += __shfl_xor_sync(~0u, total, d);
  return total;
}

// The score of a product of query and key.
__device__ float score_of(const AttentionRun& a, float product) {
  const float s = product * a.scale;
  return a.cap > 0 ? a.cap * tanhf(s / a.cap) : s;
}
// What the gradient of a score is multiplied by.
__device__ float slope_of(const AttentionRun& a, float score) { return a.cap > 0 ? 1 - score / a.cap * (score / a.cap) : 1.0f; }

template <class X>
struct Data {
  X *dq, *dk, *dv;
  const X *dy, *q, *k, *v;
  const float *lse, *delta;  // (H, T)
};

// Which query a warp has, the last tokens first: they see most.
struct Query {
  int token, head, group;
  bool none;
  __device__ Query(const AttentionRun& a) {
    const int64_t i = int64_t{blockIdx.x} * warps + threadIdx.x / 32;
    none = i >= int64_t{a.tokens} * a.heads;
    token = a.tokens - 1 - int(i / a.heads), head = int(i % a.heads), group = head / a.per_group;
  }
  __device__ int64_t offset(const AttentionRun& a) const { return (int64_t{token} * a.heads + head) * a.dim; }
  __device__ int64_t lse(const AttentionRun& a) const { return int64_t{head} * a.tokens + token; }
};

template <int C, class X>
__global__ void __launch_bounds__(32 * warps) forward(AttentionRun a, X* y, float* lse, const X* q, const X* k, const X* v) {
  const Query me(a);
  if (me.none) return;
  const auto query = Row<C>::read(q + me.offset(a), a.dim);
  auto sum = Row<C>::zero();
  float most = -INFINITY, total = 0;
  for (int key = a.low(me.token); key <= a.first + me.token; ++key) {
    const int64_t at = a.key(me.group, key);
    const float score = score_of(a, dot(query, Row<C>::read(k + at, a.dim))), now = fmaxf(most, score);
    const float shrink = expf(most - now), p = expf(score - now);
    sum.shrink_and_add(shrink, p, Row<C>::read(v + at, a.dim));
    total = fmaf(total, shrink, p);
    most = now;
  }
  sum.write(y + me.offset(a), a.dim, 1.0f / total);
  if (lse && threadIdx.x % 32 == 0) lse[me.lse(a)] = most + logf(total);
}

template <int C, class X>
__global__ void __launch_bounds__(32 * warps) backward_queries(AttentionRun a, Data<X> b) {
  const Query me(a);
  if (me.none) return;
  const auto query = Row<C>::read(b.q + me.offset(a), a.dim), dy = Row<C>::read(b.dy + me.offset(a), a.dim);
  const float lse = b.lse[me.lse(a)], delta = b.delta[me.lse(a)];
  auto dq = Row<C>::zero();
  for (int key = a.low(me.token); key <= me.token; ++key) {
    const int64_t at = a.key(me.group, key);
    const auto k = Row<C>::read(b.k + at, a.dim);
    const float score = score_of(a, dot(query, k)), p = expf(score - lse);
    dq.add(p * (dot(dy, Row<C>::read(b.v + at, a.dim)) - delta) * slope_of(a, score), k);
  }
  dq.write(b.dq + me.offset(a), a.dim, a.scale);
}

template <int C, class X>
__global__ void __launch_bounds__(32 * warps) backward_keys(AttentionRun a, Data<X> b) {
  const int64_t index = int64_t{blockIdx.x} * warps + threadIdx.x / 32;
  if (index >= int64_t{a.tokens} * a.groups) return;
  const int key = int(index / a.groups), group = int(index % a.groups);
  const int64_t at = a.key(group, key);
  const auto k = Row<C>::read(b.k + at, a.dim), v = Row<C>::read(b.v + at, a.dim);
  auto dk = Row<C>::zero(), dv = Row<C>::zero();
  for (int token = key; token < a.tokens; ++token) {
    if (a.low(token) > key) continue;
    for (int head = group * a.per_group; head < (group + 1) * a.per_group; ++head) {
      const int64_t row = (int64_t{token} * a.heads + head) * a.dim, place = int64_t{head} * a.tokens + token;
      const auto query = Row<C>::read(b.q + row, a.dim), dy = Row<C>::read(b.dy + row, a.dim);
      const float score = score_of(a, dot(query, k)), p = expf(score - b.lse[place]);
      dv.add(p, dy);
      dk.add(p * (dot(dy, v) - b.delta[place]) * slope_of(a, score), query);
    }
  }
  dk.write(b.dk + at, a.dim, a.scale);
  dv.write(b.dv + at, a.dim, 1);
}

// delta (H, T) of dy, y (T, H, D): a warp per row; W channels at a time.
template <int W, class X>
__global__ void __launch_bounds__(32 * warps) sum_delta(float* delta, const X* dy, const X* y, int tokens, int heads, int dim) {
  struct alignas(W * sizeof(X)) Pack { X at[W]; };
  const int64_t row = int64_t{blockIdx.x} * warps + threadIdx.x / 32;
  if (row >= int64_t{tokens} * heads) return;
  float total = 0;
  for (int c = int(threadIdx.x) % 32 * W; c < dim; c += 32 * W) {
    const Pack a = *reinterpret_cast<const Pack*>(dy + row * dim + c), b = *reinterpret_cast<const Pack*>(y + row * dim + c);
#pragma unroll
    for (int i = 0; i < W; ++i) total = fmaf(float(a.at[i]), float(b.at[i]), total);
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) total += __shfl_xor_sync(~0u, total, d);
  if (threadIdx.x % 32 == 0) delta[row % heads * tokens + row / heads] = total;
}

// Not visit_float: nvcc takes no _Float16, which is what the host's f16 holds.
template <class F>
void visit_type(DType t, F&& f) {
  switch (t) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(__nv_bfloat16{});
    case DType::f16: return f(__half{});
    default: throw Error("attention takes floating-point tensors");
  }
}

// f(x, c): a value of the tensors' type, and the channels of a lane.
template <class F>
void visit(Tensor q, F&& f) {
  const int64_t dim = q.shape[2];
  check(dim <= widest_head, "attention: a head has 1 to 512 channels");
  visit_type(q.dtype, [&]<class X>(X x) {
    if (dim <= 32) f(x, std::integral_constant<int, 1>{});
    else if (dim <= 64) f(x, std::integral_constant<int, 2>{});
    else if (dim <= 128) f(x, std::integral_constant<int, 4>{});
    else if (dim <= 256) f(x, std::integral_constant<int, 8>{});
    else f(x, std::integral_constant<int, 16>{});
  });
}

int64_t blocks_for(int64_t rows) { return (rows + warps - 1) / warps; }

}  // namespace

void attention_delta(CudaContext& cuda, Tensor delta, Tensor dy, Tensor y) {
  const int64_t tokens = y.shape[0], heads = y.shape[1], dim = y.shape[2];
  visit_type(y.dtype, [&]<class X>(X) {
    const auto run = [&](auto kernel) {
      launch_kernel(cuda, "attention_delta", blocks_for(tokens * heads), 32 * warps, 0, kernel, at<float>(delta), at<const X>(dy),
                    at<const X>(y), int(tokens), int(heads), int(dim));
    };
    if (dim % 4 == 0 && aligned_16(dy, y)) run(sum_delta<4, X>);
    else run(sum_delta<1, X>);
  });
}

void attention_general(CudaContext& cuda, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape) {
  visit(q, [&]<class X, int C>(X, std::integral_constant<int, C>) {
    launch_kernel(cuda, "attention", blocks_for(q.shape[0] * q.shape[1]), 32 * warps, 0, forward<C, X>, attention_run(q, k, shape), at<X>(y),
                  at<float>(lse), at<const X>(q), at<const X>(k), at<const X>(v));
  });
}

void attention_backward_general(CudaContext& cuda, const AttentionGrad& g, Tensor delta, Tensor dy, Tensor lse, Tensor q, Tensor k, Tensor v,
                                const AttentionShape& shape) {
  visit(q, [&]<class X, int C>(X, std::integral_constant<int, C>) {
    const AttentionRun a = attention_run(q, k, shape);
    const Data<X> b{at<X>(g.dq),      at<X>(g.dk),      at<X>(g.dv),          at<const X>(dy),         at<const X>(q),
                    at<const X>(k), at<const X>(v), at<const float>(lse), at<const float>(delta)};
    launch_kernel(cuda, "attention_backward", blocks_for(k.shape[0] * k.shape[1]), 32 * warps, 0, backward_keys<C, X>, a, b);
    launch_kernel(cuda, "attention_backward", blocks_for(q.shape[0] * q.shape[1]), 32 * warps, 0, backward_queries<C, X>, a, b);
  });
}

}  // namespace thimble::ops
