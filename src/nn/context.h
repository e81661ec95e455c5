// What attention and the MLP of a layer know of their surroundings, and the norms that both are made with.
#pragma once
#include <span>

#include "nn/kv_cache.h"
#include "nn/rope_tables.h"
#include "nn/saved.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"

namespace thimble::nn {

// Where a layer stands: positions and documents of the tokens, and, when generating, the caches that hold earlier keys and values.
struct Context {
  Tensor positions, start;     // (T) i32
  const RopeTables* rope = nullptr;
  const ModelSpec* model = nullptr;
  int64_t longest = 0;         // tokens of a document at most; 0: no cap
  int64_t document = 0;        // tokens of each document where all are of one length, else 0
  int64_t chunk = 0;           // tokens at a time in the MLP and in attention's projections of its input; 0: all
  std::span<const LayerCache> caches = {};  // of this layer: none, one that all tokens come to, or one for each token
};

inline ops::Norm norm_by(const Context& c, const quant::Weight& w) { return {w.dense(), float(c.model->norm_eps), c.model->norm_offset}; }
// y = norm(x) + plus, rstd: overwritten; plus may be null
inline void norm(comm::Rank& r, const Context& c, Tensor y, Tensor rstd, Tensor x, const quant::Weight& w, Tensor plus = {}) {
  ops::rms_norm(r.stream, y, rstd, x, w.dense(), float(c.model->norm_eps), c.model->norm_offset, plus);
}
// dx, dw added to; dw may be null
inline void norm_backward(comm::Rank& r, const Context& c, Tensor dx, Tensor dw, Tensor dy, Tensor x, const quant::Weight& w, Tensor rstd) {
  ops::rms_norm_backward(r.stream, dx, dw, dy, x, w.dense(), rstd, c.model->norm_offset);
}

}  // namespace thimble::nn
