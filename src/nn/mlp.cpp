// A recompute ends at act: the down projection is forward's alone, but where a norm reads it.
#include "nn/mlp.h"

#include "nn/project.h"
#include "ops/swiglu.h"

namespace thimble::nn {

Tensor Mlp::made_norm(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (!s.ready(normed_mlp) || !s.ready(rstd_mlp)) {
    const Tensor y = s.make(r, normed_mlp);
    norm(r, c, y, s.make(r, rstd_mlp), x, p.weight[norm_mlp]);
  }
  return s[normed_mlp];
}

void Mlp::made_gate_up(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (s.ready(gate) && s.ready(up)) return;
  const Tensor n = made_norm(r, p, c, x, s);
  const Tensor to_gate = s.make(r, gate), to_up = s.make(r, up);
  project(r, {to_gate, to_up}, n, p, gate_up_group, s);
}

Tensor Mlp::made_act(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (!s.ready(act) && p.generating) {
    const Tensor to_gate = s.make(r, gate), to_up = s.make(r, up);
    ops::After after;
    after.gated = s.make(r, act), after.activation = c.model->activation;
    project_few(r, {to_gate, to_up}, x, p, gate_up_group, s, norm_by(c, p.weight[norm_mlp]), after);
  }
  if (!s.ready(act)) {
    made_gate_up(r, p, c, x, s);
    ops::swiglu(r.stream, s.make(r, act), s[gate], s[up], c.model->activation);
  }
  return s[act];
}

Tensor Mlp::made_out(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (!s.ready(mlp_out)) {
    const Tensor a = made_act(r, p, c, x, s);
    project(r, {s.make(r, mlp_out)}, a, p, down_group, s);
  }
  return s[mlp_out];
}

void Mlp::forward(comm::Rank& r, const LayerParams& p, const Context& c, Tensor y, Tensor x, Saved& s) {
  if (s.shapes().layer.norms_after) {
    const Tensor out = made_out(r, p, c, x, s);
    return norm(r, c, y, s.make(r, rstd_mlp_out), out, p.weight[norm_after_mlp], x);
  }
  project(r, {y}, made_act(r, p, c, x, s), p, down_group, s, x);
}

void Mlp::backward(comm::Rank& r, const LayerParams& p, const LayerGrads& g, const Context& c, Tensor d, Tensor x, Saved& s) {
  made_gate_up(r, p, c, x, s);
  const auto& shapes = s.shapes();
  const auto temporary = [&](const char* name, SavedName like) { return r.memory.take(Use::activations, name, shapes.dtype(like), shapes.shape(like)); };

  Tensor dout = d;
  if (shapes.layer.norms_after) {
    const Tensor out = made_out(r, p, c, x, s);
    dout = temporary("d mlp out", mlp_out);
    if (!s.ready(rstd_mlp_out)) norm(r, c, dout, s.make(r, rstd_mlp_out), out, p.weight[norm_after_mlp]);
    ops::zero(r.stream, dout);
    norm_backward(r, c, dout, g.weight[norm_after_mlp], d, out, p.weight[norm_after_mlp], s[rstd_mlp_out]);
  }
  const Tensor dact = temporary("d act", act), dgate = temporary("d gate", gate);
  {
    const Scope of_act(r.memory);
    const bool had_act = s.ready(act), had_xa = s.ready(xa_down);
    project_backward(r, dact, {dout}, wants_input(p, g, down_group) ? made_act(r, p, c, x, s) : Tensor{}, p, g, down_group, s);
    if (!had_act) s.forget(act);
    if (!had_xa) s.forget(xa_down);
  }
  const Tensor dup = dact;  // the gradient of act is used up by the op that makes that of up
  ops::swiglu_backward(r.stream, dgate, dup, dact, s[gate], s[up], c.model->activation);

  const Tensor n = wants_input(p, g, gate_up_group) ? made_norm(r, p, c, x, s) : Tensor{};
  const Tensor dnorm = temporary("d normed", normed_mlp);
  project_backward(r, dnorm, {dgate, dup}, n, p, g, gate_up_group, s);
  if (!s.ready(rstd_mlp)) made_norm(r, p, c, x, s);
  norm_backward(r, c, d, g.weight[norm_mlp], dnorm, x, p.weight[norm_mlp], s[rstd_mlp]);
}

}  // namespace thimble::nn
