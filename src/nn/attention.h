// The attention half of a layer: norm, q k v, RoPE, attention, output projection, residual; forward and its backward.
// Each made_* function makes its tensors unless they are there: forward and a recompute in backward are the same calls.
#pragma once
#include "nn/saved.h"
#include "ops/attention.h"

namespace thimble::nn {

// Where a layer stands: positions and documents of the tokens, and, when generating, the cache that holds earlier keys and values.
struct Context {
  Tensor positions, start;     // (T) i32
  Tensor inv_freq;             // (D/2) f32
  int64_t longest = 0;         // tokens of a document at most; 0: no cap
  int64_t document = 0;        // tokens of each document where all are of one length, else 0
  int64_t first = 0;           // tokens in the cache before these
  Tensor cache_k, cache_v;     // (S, K D) of this layer, or null
  float eps = 1e-5f;
};

class Attention {
 public:
  // y (T, C) = x + o(attention(norm(x))), overwritten
  static void forward(comm::Rank&, const LayerParams&, const Context&, Tensor y, Tensor x, Saved&);
  // d (T, C): in, the gradient of y; out, that of x. Without `into_input` the way below is not walked (nothing is trained there).
  static void backward(comm::Rank&, const LayerParams&, const LayerGrads&, const Context&, Tensor d, Tensor x, Saved&, bool into_input);

 private:
  static Tensor made_norm(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
  static void made_qkv(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
  static void made_attended(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
};

}  // namespace thimble::nn
