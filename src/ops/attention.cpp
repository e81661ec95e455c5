// Attention: the contracts of both directions, and forward on the cpu. A tile of rows walks over its keys, tile by tile; scores are kept
// as (key, row), so that maxima and sums over keys are plain vector operations, sixteen rows at a time.
#include "ops/attention.h"

#include <cmath>

#include "base/threads.h"
#include "ops/attention_cudnn.h"
#include "ops/attention_few.h"
#include "ops/attention_rows.h"
#include "ops/elementwise.h"

namespace thimble::ops {

// attention.cu, attention_few.cu, attention_backward.cu; CudaContext completes there
void attention_cuda(CudaContext&, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape&);
void attention_few_cuda(CudaContext&, Tensor partial, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape&);
void attention_sequences_cuda(CudaContext&, Tensor partial, Tensor y, Tensor q, Tensor k, Tensor v, std::span<const Cached>, const AttentionShape&);
void attention_backward_cuda(CudaContext&, const AttentionGrad&, Tensor delta, Tensor last, Tensor dy, Tensor y, Tensor lse, Tensor q,
                             Tensor k, Tensor v, const AttentionShape&);

namespace {

constexpr int64_t cuda_key_block = 64;  // keys that share one entry of the scratch `last`, at least
constexpr int64_t few_rows = rows_together;
constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

template <class X>
struct Forward {
  AttentionSizes size;
  float scale, cap;
  X* y;
  float* lse;  // may be null
  const X *q, *k, *v;
};

// The state of the online softmax of one tile of rows.
struct Running {
  alignas(64) float most[tile_rows], sum[tile_rows], shrink[tile_rows];
};

// scores (keys, rows) become exp(score - new maximum), unseen ones 0; `shrink` is what the old sums must be multiplied by.
void softmax_step(float* scores, Running& run, const Sight& sight, int64_t key, int64_t keys, int64_t rows) {
  const bool masked = !sight.all_see(key, keys);
  for (int64_t r = 0; r < rows; r += lanes) {
    Floats most = load(run.most + r);
    Ints low, high;
    std::memcpy(&low, sight.low + r, sizeof low);
    std::memcpy(&high, sight.high + r, sizeof high);
    for (int64_t j = 0; j < keys; ++j) {
      float* at = scores + j * tile_rows + r;
      Floats x = load(at);
      if (masked) {
        const int32_t position = int32_t(key + j);
        x = ((low <= position) & (high >= position)) ? x : splat(minus_infinity);
        store(at, x);
      }
      most = max(x, most);
    }
    const Floats shift = most == minus_infinity ? Floats{} : most;  // a row that has seen nothing yet
    const Floats shrink = exp(load(run.most + r) - shift);
    Floats part{};
    for (int64_t j = 0; j < keys; ++j) {
      float* at = scores + j * tile_rows + r;
      const Floats p = exp(load(at) - shift);
      store(at, p);
      part += p;
    }
    store(run.most + r, most);
    store(run.shrink + r, shrink);
    store(run.sum + r, load(run.sum + r) * shrink + part);
  }
}

void shrink_rows(float* total, int64_t width, const Running& run, int64_t rows) {
  for (int64_t i = 0; i < rows; ++i) {
    if (run.shrink[i] == 1.0f) continue;
    for (int64_t d = 0; d < width; d += lanes) store(total + i * width + d, load(total + i * width + d) * run.shrink[i]);
  }
}

// The same for row i alone, whose scores lie side by side.
void softmax_step_of_row(float* scores, Running& run, const Sight& sight, int64_t i, int64_t key, int64_t keys) {
  Floats most = splat(run.most[i]);
  for (int64_t j = 0; j < keys; j += lanes) {
    const Ints position = ascending() + int32_t(key + j);
    const Floats x = ((position >= sight.low[i]) & (position <= sight.high[i])) ? load(scores + j) : splat(minus_infinity);
    store(scores + j, x);
    most = max(x, most);
  }
  const float now = largest(most), shift = now == minus_infinity ? 0 : now;
  Floats part{};
  for (int64_t j = 0; j < keys; j += lanes) {
    const Floats p = exp(load(scores + j) - shift);
    store(scores + j, p);
    part += p;
  }
  run.shrink[i] = exp(splat(run.most[i] - shift))[0];
  run.sum[i] = run.sum[i] * run.shrink[i] + sum(part);
  run.most[i] = now;
}

template <class X>
void write_rows(const Forward<X>& f, int64_t group, int64_t begin, int64_t rows, const float* total, const Running& run) {
  for (int64_t i = 0; i < rows; ++i) {
    const float norm = 1.0f / run.sum[i];
    X* y = f.y + f.size.query(group, begin + i);
    each_vector(f.size.dim, [&](int64_t d, auto n) { store(y + d, load(total + i * f.size.width() + d) * norm, n); });
    if (f.lse) f.lse[f.size.lse(group, begin + i)] = run.most[i] + std::log(run.sum[i]);
  }
}

template <class X>
void attend(const Forward<X>& f, int64_t group, int64_t tile) {
  const AttentionSizes& size = f.size;
  const int64_t begin = tile * tile_rows, rows = std::min(tile_rows, size.rows() - begin), width = size.width(), dim = size.dim;
  alignas(64) float query[tile_floats], keys[tile_floats], total[tile_floats], scores[score_floats];
  const Sight sight(size, begin, rows);
  Running run;
  std::fill_n(run.most, tile_rows, minus_infinity);
  std::fill_n(run.sum, tile_rows, 0.0f);
  std::fill_n(total, tile_rows * width, 0.0f);
  load_columns(query, rows, dim, f.scale, [&](int64_t i) { return f.q + size.query(group, begin + i); });
  for (int64_t key = sight.begin_key; key < sight.end_key; key += tile_rows) {
    const int64_t n = std::min(tile_rows, sight.end_key - key);
    load_rows(keys, width, n, dim, 1, [&](int64_t j) { return f.k + size.key(group, key + j); });
    tile_product(scores, tile_rows, keys, {width, 1}, query, tile_rows, n, rows, dim, false);
    if (f.cap > 0) cap_scores(scores, nullptr, f.cap, n);
    softmax_step(scores, run, sight, key, n, rows);
    shrink_rows(total, width, run, rows);
    load_rows(keys, width, n, dim, 1, [&](int64_t j) { return f.v + size.key(group, key + j); });
    tile_product(total, width, scores, {1, tile_rows}, keys, width, rows, width, n, true);
  }
  write_rows(f, group, begin, rows, total, run);
}

template <class X>
void fetch_ahead(const X* row, int64_t dim) {
  for (int64_t d = 0; d < dim; d += 64 / int64_t{sizeof(X)}) __builtin_prefetch(row + d);
}

// Decode: the rows of a group are so few that vectors run over the keys instead, and scores are kept as (row, key).
// Memory sets the pace: while keys are unpacked their values are on the way, and while values are, the next keys.
template <class X>
void attend_few(const Forward<X>& f, int64_t group) {
  const AttentionSizes& size = f.size;
  const int64_t rows = size.rows(), width = size.width(), dim = size.dim;
  alignas(64) float query[few_rows * widest_head], total[few_rows * widest_head] = {}, scores[few_rows * tile_rows] = {}, keys[tile_floats];
  const Sight sight(size, 0, rows);
  Running run;
  std::fill_n(run.most, few_rows, minus_infinity);
  std::fill_n(run.sum, few_rows, 0.0f);
  std::fill_n(keys, tile_rows * width, 0.0f);
  load_rows(query, width, rows, dim, f.scale, [&](int64_t i) { return f.q + size.query(group, i); });
  for (int64_t key = sight.begin_key; key < sight.end_key; key += tile_rows) {
    const int64_t n = std::min(tile_rows, sight.end_key - key);
    load_rows(keys, width, n, dim, 1, [&](int64_t j) {
      fetch_ahead(f.v + size.key(group, key + j), dim);
      return f.k + size.key(group, key + j);
    });
    few_products(scores, tile_rows, query, keys, width, rows, n);
    if (f.cap > 0) cap_scores(scores, nullptr, f.cap, rows);
    for (int64_t i = 0; i < rows; ++i) softmax_step_of_row(scores + i * tile_rows, run, sight, i, key, n);
    shrink_rows(total, width, run, rows);
    load_rows(keys, width, n, dim, 1, [&](int64_t j) {
      fetch_ahead(f.k + size.key(group, std::min(key + tile_rows + j, sight.end_key - 1)), dim);
      return f.v + size.key(group, key + j);
    });
    tile_product(total, width, scores, {tile_rows, 1}, keys, width, rows, width, n, true);
  }
  write_rows(f, group, 0, rows, total, run);
}

AttentionSizes sizes_of(Tensor q, Tensor k, const AttentionShape& a) {
  return {.tokens = q.shape[0], .heads = q.shape[1], .groups = k.shape[1], .dim = q.shape[2], .first = a.first,
          .start = static_cast<const int32_t*>(a.start.data), .window = a.window > 0 ? a.window : a.first + q.shape[0]};
}

template <class X>
Forward<X> forward_of(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& a) {
  return {sizes_of(q, k, a), a.scale, a.cap, y.get<X>(), lse ? lse.get<float>() : nullptr, q.get<X>(), k.get<X>(), v.get<X>()};
}
// The i-th of a group's tiles, in an order of equal work.
template <class X>
void attend(const Forward<X>& f, int64_t group, int64_t i, int64_t tiles) {
  if (f.size.rows() <= few_rows) attend_few(f, group);
  else attend(f, group, balanced(i, tiles));
}

void check_attention(Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& a) {
  check(q.shape.rank() == 3 && k.shape.rank() == 3, "attention: q is (T, H, D), k is (S, K, D)");
  const int64_t tokens = q.shape[0], heads = q.shape[1], dim = q.shape[2];
  check(k.shape[2] == dim && k.shape[1] > 0 && heads % k.shape[1] == 0, "attention: k has q's D, and H is a multiple of its heads");
  check(v.shape == k.shape && y.shape == q.shape, "attention: v is as k, y is as q");
  check(k.dtype == q.dtype && v.dtype == q.dtype && y.dtype == q.dtype, "attention: q, k, v and y are of one type");
  check(a.first >= 0 && a.first + tokens <= k.shape[0], "attention: first + T keys are there");
  check(k.shape[0] <= std::numeric_limits<int32_t>::max(), "attention: positions are 32-bit");
  check(a.start.dtype == DType::i32 && a.start.shape == Shape{tokens}, "attention: start is (T) i32");
  check(!lse || (lse.dtype == DType::f32 && lse.shape == Shape{heads, tokens}), "attention: lse is (H, T) f32, or null");
  check(dim > 0 && dim <= widest_head, "attention: a head has 1 to 512 channels");
  check(a.window >= 0 && a.cap >= 0, "attention: a window and a cap are positive, or 0 for none");
}

// Pairs of a query and a key, as if all documents were as long as they may be: work depends on shapes and caps, never on data.
double causal_pairs(Tensor q, const AttentionShape& a) {
  const double tokens = double(q.shape[0]), longest = a.longest > 0 ? std::min(tokens, double(a.longest)) : tokens;
  const double window = a.window > 0 ? double(a.window) : tokens + double(a.first), seen = std::min(longest, window);
  const double own = seen * (2 * longest - seen + 1) / (2 * longest);  // of a document's keys, on average over its tokens
  return double(q.shape[1]) * tokens * std::min(window, double(a.first) + own);
}

}  // namespace

Work attention_work(Stream& s, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& a) {
  check_attention(y, lse, q, k, v, a);
  const int64_t seen = (a.first + q.shape[0]) * k.shape.row() * size_of(k.dtype);
  return {.name = "attention", .flops = 4.0 * double(q.shape[2]) * causal_pairs(q, a), .bytes = double(2 * q.bytes() + 2 * seen + a.start.bytes() + (lse ? lse.bytes() : 0)),
          .matrix = s.device.kind() == DeviceKind::cuda};
}

void attention(Stream& s, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& a) {
  const Work work = attention_work(s, y, lse, q, k, v, a);
  const Scope scope(s.arena);
  Tensor workspace;
  const bool few = attention_is_few(s.device.spec(), q, k, a);
  if (few) workspace = s.scratch("attention of splits", DType::f32, attention_few_partial(q, a));
  else if (attention_may_take_cudnn(s.device.spec(), q)) workspace = s.scratch("attention workspace", DType::u8, {attention_cudnn_forward_workspace});
  launch(
      s, work,
      [&] {
        visit_float(q.dtype, [&]<class X>(X) {
          const Forward<X> f = forward_of<X>(y, lse, q, k, v, a);
          const int64_t tiles = f.size.row_tiles();
          parallel_for(f.size.groups * tiles, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) attend(f, i / tiles, i % tiles, tiles);
          });
        });
      },
      [&](auto& cuda) {
        if (few) attention_few_cuda(cuda, workspace, y, lse, q, k, v, a);
        else if (!attention_suits_cudnn(s.device.spec(), q, a) || !attention_cudnn(cuda, workspace, y, lse, q, k, v, a))
          attention_cuda(cuda, y, lse, q, k, v, a);
      });
}

void attention(Stream& s, Tensor y, Tensor q, Tensor k, Tensor v, std::span<const Cached> all, const AttentionShape& shape) {
  const int64_t tokens = q.shape[0];
  check(tokens == std::ssize(all) && tokens > 0 && k.shape.rank() == 3 && k.shape[0] == tokens && v.shape == k.shape, "attention: a token to each sequence");
  struct One { Tensor y, q; AttentionShape shape; };
  const auto one = [&](int64_t i) {
    One o{y.rows(i, 1), q.rows(i, 1), shape};
    o.shape.start = shape.start.rows(i, 1), o.shape.first = all[size_t(i)].first;
    return o;
  };
  Work work{.name = "attention"};
  bool few = true;
  for (int64_t i = 0; i < tokens; ++i) {
    const auto& [keys, values, first] = all[size_t(i)];
    const auto [to, from, own] = one(i);
    const Work of = attention_work(s, to, {}, from, keys, values, own);
    check(keys.shape.row() == k.shape.row(), "attention: keys and values are as the tokens' own");
    work.flops += of.flops, work.bytes += of.bytes + double(4 * k.bytes()) / double(tokens), work.matrix = of.matrix;
    few = few && attention_is_few(s.device.spec(), from, keys, own);
  }
  if (!few && s.device.kind() == DeviceKind::cuda) {  // one after the other
    for (int64_t i = 0; i < tokens; ++i) {
      const auto& [keys, values, first] = all[size_t(i)];
      const auto [to, from, own] = one(i);
      convert(s, keys.rows(first, 1), k.rows(i, 1));
      convert(s, values.rows(first, 1), v.rows(i, 1));
      attention(s, to, {}, from, keys, values, own);
    }
    return;
  }
  const Scope scope(s.arena);
  const Tensor partial = few ? s.scratch("attention of splits", DType::f32, attention_few_partial(q, all)) : Tensor{};
  launch(
      s, work,
      [&] {
        visit_float(q.dtype, [&]<class X>(X) {
          const int64_t groups = k.shape[1], dim = k.shape[2];
          parallel_for(tokens * groups, 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              const int64_t token = i / groups, group = i % groups;
              const auto& [keys, values, first] = all[size_t(token)];
              std::copy_n(k.get<X>() + i * dim, dim, keys.get<X>() + (first * groups + group) * dim);
              std::copy_n(v.get<X>() + i * dim, dim, values.get<X>() + (first * groups + group) * dim);
              const auto [to, from, own] = one(token);
              const Forward<X> f = forward_of<X>(to, {}, from, keys, values, own);
              for (int64_t tile = 0, tiles = f.size.row_tiles(); tile < tiles; ++tile) attend(f, group, tile, tiles);
            }
          });
        });
      },
      [&](auto& cuda) { attention_sequences_cuda(cuda, partial, y, q, k, v, all, shape); });
}

void attention_backward(Stream& s, const AttentionGrad& g, Tensor dy, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v,
                        const AttentionShape& a) {
  check_attention(y, lse, q, k, v, a);
  check(bool(lse), "attention_backward: needs the lse of forward");
  check(a.first == 0 && k.shape[0] == q.shape[0], "attention_backward: no cache, as many keys as queries");
  const auto alike = [](Tensor x, Tensor like) { return x.shape == like.shape && x.dtype == like.dtype; };
  check(alike(g.dq, q) && alike(g.dk, k) && alike(g.dv, v) && alike(dy, y), "attention_backward: each gradient is as its tensor");
  const Scope scope(s.arena);
  const Tensor delta = s.scratch("attention delta", DType::f32, lse.shape);
  Tensor last;  // by block of keys: the last token that sees one of them
  if (s.device.kind() == DeviceKind::cuda)
    last = s.scratch("attention last tokens", DType::i32, {(q.shape[0] + cuda_key_block - 1) / cuda_key_block});
  const Work work{.name = "attention_backward", .flops = 10.0 * double(q.shape[2]) * causal_pairs(q, a),
                  .bytes = double(4 * q.bytes() + 4 * k.bytes() + a.start.bytes() + lse.bytes()),
                  .matrix = s.device.kind() == DeviceKind::cuda};
  Tensor workspace;
  if (attention_may_take_cudnn(s.device.spec(), q)) workspace = s.scratch("attention workspace", DType::u8, {attention_cudnn_workspace(q, k, a)});
  launch(
      s, work, [&] { attention_backward_cpu(sizes_of(q, k, a), a.scale, a.cap, g, delta, dy, y, lse, q, k, v); },
      [&](auto& cuda) {
        if (!attention_suits_cudnn(s.device.spec(), q, a) || !attention_backward_cudnn(cuda, g, workspace, dy, y, lse, q, k, v, a))
          attention_backward_cuda(cuda, g, delta, last, dy, y, lse, q, k, v, a);
      });
}

}  // namespace thimble::ops
