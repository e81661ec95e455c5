// A recompute ends at act: the down projection is forward's alone.
#include "nn/mlp.h"

#include "nn/project.h"
#include "ops/rms_norm.h"
#include "ops/swiglu.h"

namespace thimble::nn {

Tensor Mlp::made_norm(comm::Rank& r, const LayerParams& p, float eps, Tensor x, Saved& s) {
  if (!s.ready(normed_mlp) || !s.ready(rstd_mlp)) {
    const Tensor y = s.make(r, normed_mlp);
    ops::rms_norm(r.stream, y, s.make(r, rstd_mlp), x, p.weight[norm_mlp].dense(), eps);
  }
  return s[normed_mlp];
}

void Mlp::made_gate_up(comm::Rank& r, const LayerParams& p, float eps, Tensor x, Saved& s) {
  if (s.ready(gate) && s.ready(up)) return;
  const Tensor n = made_norm(r, p, eps, x, s);
  const Tensor to_gate = s.make(r, gate), to_up = s.make(r, up);
  project(r, {to_gate, to_up}, n, p, gate_up_group, s);
}

Tensor Mlp::made_act(comm::Rank& r, const LayerParams& p, float eps, Tensor x, Saved& s) {
  if (!s.ready(act)) {
    made_gate_up(r, p, eps, x, s);
    ops::swiglu(r.stream, s.make(r, act), s[gate], s[up]);
  }
  return s[act];
}

void Mlp::forward(comm::Rank& r, const LayerParams& p, float eps, Tensor y, Tensor x, Saved& s) {
  project(r, {y}, made_act(r, p, eps, x, s), p, down_group, s, x);
}

void Mlp::backward(comm::Rank& r, const LayerParams& p, const LayerGrads& g, float eps, Tensor d, Tensor x, Saved& s) {
  made_gate_up(r, p, eps, x, s);
  const Scope scope(r.memory);
  const auto& shapes = s.shapes();
  const auto temporary = [&](const char* name, SavedName like) { return r.memory.take(Use::activations, name, shapes.dtype(like), shapes.shape(like)); };

  const Tensor dact = temporary("d act", act), dgate = temporary("d gate", gate);
  {
    const Scope of_act(r.memory);
    const bool had_act = s.ready(act), had_xa = s.ready(xa_down);
    project_backward(r, dact, {d}, wants_input(p, g, down_group) ? made_act(r, p, eps, x, s) : Tensor{}, p, g, down_group, s);
    if (!had_act) s.forget(act);
    if (!had_xa) s.forget(xa_down);
  }
  const Tensor dup = dact;  // the gradient of act is used up by the op that makes that of up
  ops::swiglu_backward(r.stream, dgate, dup, dact, s[gate], s[up]);

  const Tensor n = wants_input(p, g, gate_up_group) ? made_norm(r, p, eps, x, s) : Tensor{};
  const Tensor dnorm = temporary("d normed", normed_mlp);
  project_backward(r, dnorm, {dgate, dup}, n, p, g, gate_up_group, s);
  if (!s.ready(rstd_mlp)) made_norm(r, p, eps, x, s);
  ops::rms_norm_backward(r.stream, d, g.weight[norm_mlp], dnorm, x, p.weight[norm_mlp].dense(), s[rstd_mlp]);
}

}  // namespace thimble::nn
