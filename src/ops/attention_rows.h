// How attention's CPU code sees its tensors: for each key/value head the queries of its group as rows, (token, head) together,
// so that a tile of keys is read once for all of them, in prefill and in decode alike.
#pragma once
#include <limits>

#include "ops/attention.h"
#include "ops/attention_tile.h"

namespace thimble::ops {

constexpr int64_t widest_head = 512;  // channels; bounds the tiles, which lie on the stack of each thread
constexpr int64_t tile_floats = tile_rows * widest_head;
constexpr int64_t score_floats = tile_rows * tile_rows;

struct AttentionSizes {
  int64_t tokens, heads, groups, dim;  // groups: key/value heads
  int64_t first;
  const int32_t* start;
  int64_t window;  // keys that a query sees at most; more than there are where nothing limits it

  int64_t per_group() const { return heads / groups; }
  int64_t rows() const { return tokens * per_group(); }
  int64_t row_tiles() const { return (rows() + tile_rows - 1) / tile_rows; }
  int64_t width() const { return round_up(dim, lanes); }
  int64_t token(int64_t row) const { return row / per_group(); }
  int32_t low(int64_t token) const { return std::max(start[token], int32_t(first + token + 1 - window)); }  // the first key that it sees
  int64_t head(int64_t group, int64_t row) const { return group * per_group() + row % per_group(); }
  int64_t query(int64_t group, int64_t row) const { return (token(row) * heads + head(group, row)) * dim; }  // offset in q, y
  int64_t key(int64_t group, int64_t at) const { return (at * groups + group) * dim; }                       // offset in k, v
  int64_t lse(int64_t group, int64_t row) const { return head(group, row) * tokens + token(row); }
};

// Which keys the rows [begin, begin + count) see: each low .. high, all of them within begin_key .. end_key.
struct Sight {
  alignas(64) int32_t low[tile_rows], high[tile_rows];
  int64_t begin_key, end_key;    // the union, half open
  int64_t common_low, common_high;  // seen by every row, closed

  Sight(const AttentionSizes& s, int64_t begin, int64_t count) {
    constexpr int32_t most = std::numeric_limits<int32_t>::max();
    begin_key = most, common_low = 0;
    for (int64_t i = 0; i < tile_rows; ++i) {
      const int64_t t = s.token(begin + i);
      low[i] = i < count ? s.low(t) : 0;
      high[i] = i < count ? int32_t(s.first + t) : most;  // a pad sees all: nobody looks at it
      if (i >= count) continue;
      begin_key = std::min<int64_t>(begin_key, low[i]);
      common_low = std::max<int64_t>(common_low, low[i]);
    }
    common_high = s.first + s.token(begin);
    end_key = s.first + s.token(begin + count - 1) + 1;
  }
  bool all_see(int64_t key, int64_t count) const { return key >= common_low && key + count - 1 <= common_high; }
  bool none_sees(int64_t key, int64_t count) const { return key >= end_key || key + count <= begin_key; }
};

// Tiles of rows in an order whose every cut has about equal work: the shortest, the longest, the second shortest, ...
inline int64_t balanced(int64_t i, int64_t n) { return i % 2 ? n - 1 - i / 2 : i / 2; }

// Scores (rows of tile_rows) become cap tanh(score / cap); `slope`, unless null, what a gradient of theirs is multiplied by.
inline void cap_scores(float* scores, float* slope, float cap, int64_t rows) {
  for (int64_t i = 0; i < rows * tile_rows; i += lanes) {
    const Floats t = tanh(load(scores + i) * (1.0f / cap));
    store(scores + i, cap * t);
    if (slope) store(slope + i, 1.0f - t * t);
  }
}
// Gradients of capped scores become those of the scores.
inline void apply_slope(float* d, const float* slope, int64_t rows) {
  for (int64_t i = 0; i < rows * tile_rows; i += lanes) store(d + i, load(d + i) * load(slope + i));
}

void attention_backward_cpu(const AttentionSizes&, float scale, float cap, const AttentionGrad&, Tensor delta, Tensor dy, Tensor y, Tensor lse,
                            Tensor q, Tensor k, Tensor v);

}  // namespace thimble::ops
