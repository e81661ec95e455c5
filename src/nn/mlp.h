// The gated MLP half of a layer: norm, gate and up, silu(gate) * up, down, residual; forward and its backward.
#pragma once
#include "nn/saved.h"

namespace thimble::nn {

class Mlp {
 public:
  // y (T, C) = x + down(act(norm(x))), overwritten
  static void forward(comm::Rank&, const LayerParams&, float eps, Tensor y, Tensor x, Saved&);
  // d (T, C): in, the gradient of y; out, that of x
  static void backward(comm::Rank&, const LayerParams&, const LayerGrads&, float eps, Tensor d, Tensor x, Saved&);

 private:
  static Tensor made_norm(comm::Rank&, const LayerParams&, float eps, Tensor x, Saved&);
  static void made_gate_up(comm::Rank&, const LayerParams&, float eps, Tensor x, Saved&);
  static Tensor made_act(comm::Rank&, const LayerParams&, float eps, Tensor x, Saved&);
};

}  // namespace thimble::nn
