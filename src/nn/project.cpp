// The adapter's x . A^T is a saved tensor like any other: kept, or made again from x.
#include "nn/project.h"

namespace thimble::nn {

void project(comm::Rank& r, Tensor y, Tensor x, const LayerParams& p, int param, Saved& s) {
  ops::linear(r.stream, y, x, p.weight[size_t(param)]);
  if (const auto& lora = p.lora[size_t(param)]) {
    const Tensor xa = s.make(r, xa_of(param));
    ops::lora_down(r.stream, xa, x, lora);
    ops::lora_up(r.stream, y, xa, lora);
  }
}

bool wants_input(const LayerParams& p, const LayerGrads& g, int param) { return p.lora[size_t(param)] || g.weight[size_t(param)]; }

void project_backward(comm::Rank& r, Tensor dx, bool add, Tensor dy, Tensor x, const LayerParams& p, const LayerGrads& g, int param, Saved& s) {
  if (dx) ops::linear_backward_input(r.stream, dx, dy, p.weight[size_t(param)], add);
  if (g.weight[size_t(param)]) ops::linear_backward_weight(r.stream, g.weight[size_t(param)], dy, x);
  if (const auto& lora = p.lora[size_t(param)]) {
    if (!s.ready(xa_of(param))) ops::lora_down(r.stream, s.make(r, xa_of(param)), x, lora);
    ops::lora_backward(r.stream, dx, g.lora[size_t(param)], dy, x, s[xa_of(param)], lora);
  }
}

}  // namespace thimble::nn
