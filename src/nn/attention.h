// The attention half of a layer: norm, q k v, RoPE, attention, output projection, residual, and what a family has besides; forward and its
// backward.
// Each made_* function makes its tensors unless they are there: forward and a recompute in backward are the same calls.
#pragma once
#include "nn/context.h"
#include "ops/attention.h"

namespace thimble::nn {

class Attention {
 public:
  // y (T, C) = x + o(attention(norm(x))), overwritten; with norms_after x + norm(o(...))
  static void forward(comm::Rank&, const LayerParams&, const Context&, Tensor y, Tensor x, Saved&);
  // s[attended] alone: what the output projection reads
  static void attend(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) { made_attended(r, p, c, x, s); }
  // What a chain of products makes instead (nn/chain.h), where there is one cache: places for q, k, v and s[attended]; how q and k turn; attention of one token.
  static void place(comm::Rank&, const Context&, Saved&);
  static ops::Turn turn(const Context&, const LayerSpec&);
  static ops::Attend of_one(const LayerParams&, const Context&, const Saved&);
  // d (T, C): in, the gradient of y; out, that of x. Without `into_input` the way below is not walked (nothing is trained there).
  static void backward(comm::Rank&, const LayerParams&, const LayerGrads&, const Context&, Tensor d, Tensor x, Saved&, bool into_input);
  // What backward reads is made again where it is not there.
  static void remake(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);

 private:
  static Tensor made_norm(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
  static void made_qkv(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
  static void made_attended(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
  static Tensor made_out(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
};

}  // namespace thimble::nn
