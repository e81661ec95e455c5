// Attention's gradients on the cpu: two walks over the tiles, one by keys for dk and dv, one by rows for dq. Each recomputes the
// probabilities from lse; seven products instead of five buy full parallelism, fixed order of every sum, and no scratch but delta.
#include "base/threads.h"
#include "ops/attention_rows.h"

namespace thimble::ops {
namespace {

template <class X>
struct Backward {
  AttentionSizes size;
  float scale, cap;
  X *dq, *dk, *dv;
  float* delta;  // (H, T): sum of dy * y
  const X *dy, *y;
  const float* lse;
  const X *q, *k, *v;
};

template <class X>
void sum_delta(const Backward<X>& b) {
  const AttentionSizes& size = b.size;
  parallel_for(size.tokens * size.heads, std::max<int64_t>(1, 8192 / size.dim), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Floats total{};
      each_vector(size.dim, [&](int64_t d, auto n) { total += load(b.dy + i * size.dim + d, n) * load(b.y + i * size.dim + d, n); });
      b.delta[i % size.heads * size.tokens + i / size.heads] = sum(total);
    }
  });
}

// scores (rows, keys) become probabilities, dp (rows, keys) the gradient of the scores.
template <class X>
void turn_by_keys(const Backward<X>& b, float* scores, float* dp, const Sight& sight, int64_t group, int64_t row, int64_t rows, int64_t key,
                  int64_t keys) {
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = b.size.lse(group, row + i);
    const float lse = b.lse[at], delta = b.delta[at];
    for (int64_t j = 0; j < keys; j += lanes) {
      float *s = scores + i * tile_rows + j, *d = dp + i * tile_rows + j;
      const Ints position = ascending() + int32_t(key + j);
      const Floats p = ((position >= sight.low[i]) & (position <= sight.high[i])) ? exp(load(s) - lse) : Floats{};
      store(s, p);
      store(d, p * (load(d) - delta));
    }
  }
}

template <class X>
void backward_keys(const Backward<X>& b, int64_t group, int64_t key) {
  const AttentionSizes& size = b.size;
  const int64_t keys = std::min(tile_rows, size.tokens - key), width = size.width(), dim = size.dim;
  alignas(64) float k[tile_floats], v[tile_floats], q[tile_floats], dy[tile_floats], dk[tile_floats], dv[tile_floats];
  alignas(64) float scores[score_floats], dp[score_floats], slope[score_floats];
  load_columns(k, keys, dim, 1, [&](int64_t j) { return b.k + size.key(group, key + j); });
  load_columns(v, keys, dim, 1, [&](int64_t j) { return b.v + size.key(group, key + j); });
  std::fill_n(dk, tile_rows * width, 0.0f);
  std::fill_n(dv, tile_rows * width, 0.0f);
  const int64_t end = std::min(size.tokens, key + keys - 1 + size.window) * size.per_group();  // later rows are too far away
  for (int64_t row = key * size.per_group() / tile_rows * tile_rows; row < end; row += tile_rows) {
    const int64_t rows = std::min(tile_rows, size.rows() - row);
    const Sight sight(size, row, rows);
    if (sight.none_sees(key, keys)) continue;
    load_rows(q, width, rows, dim, b.scale, [&](int64_t i) { return b.q + size.query(group, row + i); });
    load_rows(dy, width, rows, dim, 1, [&](int64_t i) { return b.dy + size.query(group, row + i); });
    tile_product(scores, tile_rows, q, {width, 1}, k, tile_rows, rows, keys, dim, false);
    tile_product(dp, tile_rows, dy, {width, 1}, v, tile_rows, rows, keys, dim, false);
    if (b.cap > 0) cap_scores(scores, slope, b.cap, rows);
    turn_by_keys(b, scores, dp, sight, group, row, rows, key, keys);
    if (b.cap > 0) apply_slope(dp, slope, rows);
    tile_product(dv, width, scores, {1, tile_rows}, dy, width, keys, width, rows, true);
    tile_product(dk, width, dp, {1, tile_rows}, q, width, keys, width, rows, true);  // q carries the scale
  }
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t to = size.key(group, key + j);
    each_vector(dim, [&](int64_t d, auto n) {
      store(b.dk + to + d, load(dk + j * width + d), n);
      store(b.dv + to + d, load(dv + j * width + d), n);
    });
  }
}

// dp (keys, rows) becomes the gradient of the scores (keys, rows).
void turn_by_rows(const float* scores, float* dp, const Sight& sight, const float* lse, const float* delta, int64_t rows, int64_t key,
                  int64_t keys) {
  for (int64_t r = 0; r < rows; r += lanes) {
    Ints low, high;
    std::memcpy(&low, sight.low + r, sizeof low);
    std::memcpy(&high, sight.high + r, sizeof high);
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t at = j * tile_rows + r;
      const int32_t position = int32_t(key + j);
      const Floats p = ((low <= position) & (high >= position)) ? exp(load(scores + at) - load(lse + r)) : Floats{};
      store(dp + at, p * (load(dp + at) - load(delta + r)));
    }
  }
}

template <class X>
void backward_rows(const Backward<X>& b, int64_t group, int64_t tile) {
  const AttentionSizes& size = b.size;
  const int64_t row = tile * tile_rows, rows = std::min(tile_rows, size.rows() - row), width = size.width(), dim = size.dim;
  alignas(64) float q[tile_floats], dy[tile_floats], k[tile_floats], v[tile_floats], dq[tile_floats];
  alignas(64) float scores[score_floats], dp[score_floats], slope[score_floats], lse[tile_rows] = {}, delta[tile_rows] = {};
  const Sight sight(size, row, rows);
  load_columns(q, rows, dim, b.scale, [&](int64_t i) { return b.q + size.query(group, row + i); });
  load_columns(dy, rows, dim, 1, [&](int64_t i) { return b.dy + size.query(group, row + i); });
  std::fill_n(dq, tile_rows * width, 0.0f);
  for (int64_t i = 0; i < rows; ++i) {
    lse[i] = b.lse[size.lse(group, row + i)];
    delta[i] = b.delta[size.lse(group, row + i)];
  }
  for (int64_t key = sight.begin_key; key < sight.end_key; key += tile_rows) {
    const int64_t keys = std::min(tile_rows, sight.end_key - key);
    load_rows(k, width, keys, dim, 1, [&](int64_t j) { return b.k + size.key(group, key + j); });
    load_rows(v, width, keys, dim, 1, [&](int64_t j) { return b.v + size.key(group, key + j); });
    tile_product(scores, tile_rows, k, {width, 1}, q, tile_rows, keys, rows, dim, false);
    tile_product(dp, tile_rows, v, {width, 1}, dy, tile_rows, keys, rows, dim, false);
    if (b.cap > 0) cap_scores(scores, slope, b.cap, keys);
    turn_by_rows(scores, dp, sight, lse, delta, rows, key, keys);
    if (b.cap > 0) apply_slope(dp, slope, keys);
    tile_product(dq, width, dp, {1, tile_rows}, k, width, rows, width, keys, true);
  }
  for (int64_t i = 0; i < rows; ++i) {
    X* to = b.dq + size.query(group, row + i);
    each_vector(dim, [&](int64_t d, auto n) { store(to + d, load(dq + i * width + d) * b.scale, n); });
  }
}

}  // namespace

void attention_backward_cpu(const AttentionSizes& size, float scale, float cap, const AttentionGrad& g, Tensor delta, Tensor dy, Tensor y, Tensor lse,
                            Tensor q, Tensor k, Tensor v) {
  visit_float(q.dtype, [&]<class X>(X) {
    const Backward<X> b{size,          scale,       cap,              g.dq.get<X>(),    g.dk.get<X>(), g.dv.get<X>(), delta.get<float>(),
                        dy.get<X>(), y.get<X>(), lse.get<float>(), q.get<X>(),    k.get<X>(),    v.get<X>()};
    const int64_t row_tiles = size.row_tiles(), key_tiles = (size.tokens + tile_rows - 1) / tile_rows;
    sum_delta(b);
    parallel_for(size.groups * key_tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) backward_keys(b, i / key_tiles, balanced(i % key_tiles, key_tiles) * tile_rows);
    });
    parallel_for(size.groups * row_tiles, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) backward_rows(b, i / row_tiles, balanced(i % row_tiles, row_tiles));
    });
  });
}

}  // namespace thimble::ops
