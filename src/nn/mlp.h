// The gated MLP half of a layer: norm, gate and up, act(gate) * up, down, residual; forward and its backward.
#pragma once
#include "nn/context.h"

namespace thimble::nn {

class Mlp {
 public:
  // y (T, C) = x + down(act(norm(x))), overwritten; with norms_after x + norm(down(...))
  static void forward(comm::Rank&, const LayerParams&, const Context&, Tensor y, Tensor x, Saved&);
  // d (T, C): in, the gradient of y; out, that of x
  static void backward(comm::Rank&, const LayerParams&, const LayerGrads&, const Context&, Tensor d, Tensor x, Saved&);

 private:
  static Tensor made_norm(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
  static void made_gate_up(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
  static Tensor made_act(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
  static Tensor made_out(comm::Rank&, const LayerParams&, const Context&, Tensor x, Saved&);
};

}  // namespace thimble::nn
