// The adapters' A . x^T is a saved tensor like any other: kept, or made again from x. Their thin products go first and the base's product
// adds to them: adding is free in a large product, while a thin one would read and write all of y again.
#include "nn/project.h"

#include "ops/bias.h"
#include "ops/lora.h"

namespace thimble::nn {
namespace {

// f(param, its place in the group, its adapter's rows of xa) for each matrix of a group.
template <class F>
void each_member(const LayerParams& p, LayerGroup group, F&& f) {
  int64_t row = 0;
  for (int i = 0; i < members_of[group].count; ++i) {
    const auto param = size_t(members_of[group].first + i);
    f(param, i, row);
    if (p.lora.b[param]) row += p.lora.b[param].shape[1];
  }
}

}  // namespace

void project(comm::Rank& r, std::initializer_list<Tensor> ys, Tensor x, const LayerParams& p, LayerGroup group, Saved& s, Tensor plus) {
  Tensor xa;
  if (p.lora.a[group]) ops::lora_down(r.stream, xa = s.make(r, xa_of(group)), x, p.lora.a[group]);
  std::array<quant::FewProduct, quant::most_few_products> few;
  each_member(p, group, [&](size_t param, int i, int64_t row) {
    const Tensor y = ys.begin()[i], b = p.lora.b[param], c = b ? y : plus;
    if (b) ops::lora_up(r.stream, y, xa.rows(row, b.shape[1]), b, p.lora_scale, plus);
    if (p.generating) few[size_t(i)] = {y, &p.weight[param], c};
    else ops::linear(r.stream, y, x, p.weight[param], c);
  });
  if (p.generating) ops::linear_few(r.stream, x, std::span(few).first(ys.size()));
  each_member(p, group, [&](size_t param, int i, int64_t) {
    if (const Tensor bias = p.weight[bias_of(int(param))].dense()) ops::add_bias(r.stream, ys.begin()[i], bias);
  });
}

bool wants_input(const LayerParams& p, const LayerGrads& g, LayerGroup group) {
  bool wanted = bool(p.lora.a[group]);
  each_member(p, group, [&](size_t param, int, int64_t) { wanted = wanted || g.weight[param]; });
  return wanted;
}

void project_backward(comm::Rank& r, Tensor dx, std::initializer_list<Tensor> dys, Tensor x, const LayerParams& p, const LayerGrads& g, LayerGroup group, Saved& s) {
  const Tensor a = p.lora.a[group];
  Tensor below;  // what dx holds so far
  if (a) {
    if (!s.ready(xa_of(group))) ops::lora_down(r.stream, s.make(r, xa_of(group)), x, a);
    const Tensor xa = s[xa_of(group)];
    const Scope scope(r.memory);
    const Tensor dxa = r.memory.take(Use::scratch, "d xa", xa.dtype, xa.shape);
    each_member(p, group, [&](size_t param, int i, int64_t row) {
      const Tensor b = p.lora.b[param];
      if (b) ops::lora_up_backward(r.stream, dxa.rows(row, b.shape[1]), g.lora.b[param], dys.begin()[i], xa.rows(row, b.shape[1]), b, p.lora_scale);
    });
    ops::lora_down_backward(r.stream, dx, g.lora.a[group], dxa, x, a);
    below = dx;
  }
  each_member(p, group, [&](size_t param, int i, int64_t) {
    const Tensor dy = dys.begin()[i];
    if (dx) ops::linear_backward_input(r.stream, dx, dy, p.weight[param], below), below = dx;
    if (g.weight[param]) ops::linear_backward_weight(r.stream, g.weight[param], dy, x);
    if (const Tensor bias = g.weight[bias_of(int(param))]) ops::add_bias_backward(r.stream, bias, dy);
  });
}

}  // namespace thimble::nn
