// The adapter's x . A^T is a saved tensor like any other: kept, or made again from x. Its thin products go first and the base's product
// adds to them: adding is free in a large product, while a thin one would read and write all of y again.
#include "nn/project.h"

namespace thimble::nn {

void project(comm::Rank& r, Tensor y, Tensor x, const LayerParams& p, int param, Saved& s) {
  const auto& lora = p.lora[size_t(param)];
  if (lora) {
    const Tensor xa = s.make(r, xa_of(param));
    ops::lora_down(r.stream, xa, x, lora);
    ops::lora_up(r.stream, y, xa, lora, false);
  }
  ops::linear(r.stream, y, x, p.weight[size_t(param)], bool(lora));
}

bool wants_input(const LayerParams& p, const LayerGrads& g, int param) { return p.lora[size_t(param)] || g.weight[size_t(param)]; }

void project_backward(comm::Rank& r, Tensor dx, bool add, Tensor dy, Tensor x, const LayerParams& p, const LayerGrads& g, int param, Saved& s) {
  const auto& lora = p.lora[size_t(param)];
  if (lora) {
    if (!s.ready(xa_of(param))) ops::lora_down(r.stream, s.make(r, xa_of(param)), x, lora);
    ops::lora_backward(r.stream, dx, g.lora[size_t(param)], dy, x, s[xa_of(param)], lora, add);
  }
  if (dx) ops::linear_backward_input(r.stream, dx, dy, p.weight[size_t(param)], add || lora);
  if (g.weight[size_t(param)]) ops::linear_backward_weight(r.stream, g.weight[size_t(param)], dy, x);
}

}  // namespace thimble::nn
