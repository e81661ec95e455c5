// The adapters' A . x^T is a saved tensor like any other: kept, or made again from x. Their thin products go first and the base's product
// adds to them: adding is free in a large product, while a thin one would read and write all of y again.
#include "nn/project.h"

#include "ops/bias.h"
#include "ops/dora.h"
#include "ops/elementwise.h"
#include "ops/lora.h"
#include "ops/noise.h"
#include "ops/rms_norm.h"

namespace thimble::nn {
namespace {

// f(param, its place in the group, its adapter's rows of xa) for each matrix of a group.
template <class F>
void each_member(const LayerParams& p, LayerGroup group, F&& f) {
  int64_t row = 0;
  for (int i = 0; i < members_of[group].count; ++i) {
    const auto param = size_t(members_of[group].first + i);
    f(param, i, row);
    if (p.lora.b[param] && !p.shares_a(group)) row += p.lora.b[param].shape[1];
  }
}

// f(the first param, its place in the group, matrices, the adapter's rows of xa) for each module with an adapter: a matrix, or all of a group that is one.
template <class F>
void each_module(const LayerParams& p, LayerGroup group, F&& f) {
  each_member(p, group, [&](size_t param, int i, int64_t row) {
    if (!p.lora.b[param] || (p.shares_a(group) && i > 0)) return;
    f(param, i, p.shares_a(group) ? members_of[group].count : 1, row);
  });
}

// What of the drawn numbers is of an adapter: each module has a mask of its own, as in PEFT.
ops::Drawn mask_of(const LayerParams& p, LayerGroup group, size_t param, const Saved& s) { return s.drawn().of(p.shares_a(group) ? members_of[group].first : int(param)); }

// x as the adapter of `param` sees it. In scratch, to be made again in backward.
Tensor dropped(comm::Rank& r, Tensor x, const LayerParams& p, LayerGroup group, size_t param, const Saved& s) {
  const Tensor y = r.memory.take(Use::scratch, "x of an adapter", x.dtype, x.shape);
  ops::dropout(r.stream, y, x, s.drawn().share, mask_of(p, group, param, s));
  return y;
}

Tensor made_xa(comm::Rank& r, Tensor x, const LayerParams& p, LayerGroup group, Saved& s) {
  const Tensor a = p.lora.a[group];
  if (s.ready(xa_of(group))) return s[xa_of(group)];
  const Tensor xa = s.make(r, xa_of(group));
  if (!s.drawn()) ops::lora_down(r.stream, xa, x, a);
  else
    each_module(p, group, [&](size_t param, int, int, int64_t row) {
      const int64_t rank = p.lora.b[param].shape[1];
      const Scope scope(r.memory);
      ops::lora_down(r.stream, xa.rows(row, rank), dropped(r, x, p, group, param, s), a.rows(row, rank));
    });
  return xa;
}

// y = x - y
void subtract_from(comm::Rank& r, Tensor y, Tensor x) {
  ops::scale(r.stream, y, -1);
  ops::add(r.stream, y, x);
}

// An adapter of DoRA and its matrix where x loses elements to dropout (ops/dora.h); y overwritten.
void project_dropped(comm::Rank& r, Tensor y, Tensor x, const LayerParams& p, LayerGroup group, size_t param, Tensor xa, const Saved& s) {
  const Scope scope(r.memory);
  const Tensor d = dropped(r, x, p, group, param, s);
  ops::lora_up(r.stream, y, xa, p.lora.b[param], p.scale(int(param)));
  ops::linear(r.stream, y, d, p.weight[param], y);
  ops::dora_scale(r.stream, y, y, p.lora.magnitude[param], p.norm[param]);
  subtract_from(r, d, x);
  ops::linear(r.stream, y, d, p.weight[param], y);
}

}  // namespace

void project(comm::Rank& r, std::initializer_list<Tensor> ys, Tensor x, const LayerParams& p, LayerGroup group, Saved& s, Tensor plus) {
  if (p.generating) return project_few(r, ys, x, p, group, s, {}, {}, plus);
  const Tensor all = p.lora.a[group] ? made_xa(r, x, p, group, s) : Tensor{};
  each_member(p, group, [&](size_t param, int i, int64_t row) {
    const Tensor y = ys.begin()[i], b = p.lora.b[param], magnitude = p.lora.magnitude[param], first = magnitude ? Tensor{} : plus;
    if (magnitude && s.drawn()) {
      project_dropped(r, y, x, p, group, param, all.rows(row, b.shape[1]), s);
    } else {
      if (b) ops::lora_up(r.stream, y, all.rows(row, b.shape[1]), b, p.scale(int(param)), first);
      ops::linear(r.stream, y, x, p.weight[param], b ? y : first);
      if (magnitude) ops::dora_scale(r.stream, y, y, magnitude, p.norm[param]);
    }
    if (magnitude && plus) ops::add(r.stream, y, plus);
    if (const Tensor bias = p.weight[bias_of(int(param))].dense()) ops::add_bias(r.stream, y, bias);
  });
}

void project_few(comm::Rank& r, std::initializer_list<Tensor> ys, Tensor x, const LayerParams& p, LayerGroup group, Saved& s, ops::Norm norm, ops::After after, Tensor plus) {
  Tensor all;
  if (p.lora.a[group]) {
    if (norm) {
      const Tensor normed = r.memory.take(Use::scratch, "normed", x.dtype, x.shape);
      ops::rms_norm(r.stream, normed, r.memory.take(Use::scratch, "rstd", DType::f32, {x.shape[0]}), x, norm.weight, norm.eps, norm.offset);
      x = normed, norm = {};
    }
    all = made_xa(r, x, p, group, s);
  }
  std::array<quant::FewProduct, quant::most_few_products> few;
  bool dora = false;
  each_member(p, group, [&](size_t param, int i, int64_t row) {
    const Tensor y = ys.begin()[i], b = p.lora.b[param], magnitude = p.lora.magnitude[param], first = magnitude ? Tensor{} : plus;
    if (b) ops::lora_up(r.stream, y, all.rows(row, b.shape[1]), b, p.scale(int(param)), first);
    few[size_t(i)] = {y, &p.weight[param], b ? y : first};
    after.bias[size_t(i)] = p.weight[bias_of(int(param))].dense();
    dora = dora || magnitude;
  });
  const auto products = std::span(few).first(ys.size());
  ops::linear_few(r.stream, x, products, norm, dora ? ops::After{} : after);
  if (!dora) return;
  each_member(p, group, [&](size_t param, int i, int64_t) {
    const Tensor y = ys.begin()[i];
    if (p.lora.magnitude[param]) ops::dora_scale(r.stream, y, y, p.lora.magnitude[param], p.norm[param]);
    if (p.lora.magnitude[param] && plus) ops::add(r.stream, y, plus);
  });
  ops::finish_few(r.stream, products, after);
}

bool wants_input(const LayerParams& p, const LayerGrads& g, LayerGroup group) {
  bool wanted = bool(p.lora.a[group]);
  each_member(p, group, [&](size_t param, int, int64_t) { wanted = wanted || g.weight[param]; });
  return wanted;
}

void project_backward(comm::Rank& r, Tensor dx, std::initializer_list<Tensor> dys, Tensor x, const LayerParams& p, const LayerGrads& g, LayerGroup group, Saved& s) {
  const Tensor a = p.lora.a[group];
  const Scope scope(r.memory);
  std::array<Tensor, layer_param_count> dy_of{};  // of the products, where they are not of y
  Tensor below;  // what dx holds so far
  if (a) {
    const Tensor xa = made_xa(r, x, p, group, s);
    each_member(p, group, [&](size_t param, int i, int64_t row) {
      const Tensor magnitude = p.lora.magnitude[param], dy = dys.begin()[i];
      if (!magnitude) return;
      dy_of[param] = r.memory.take(Use::scratch, "d of a product", dy.dtype, dy.shape);
      {
        const Scope of_product(r.memory);
        const Tensor z = r.memory.take(Use::scratch, "a product again", dy.dtype, dy.shape);
        const Tensor b = p.lora.b[param];
        ops::lora_up(r.stream, z, xa.rows(row, b.shape[1]), b, p.scale(int(param)));
        ops::linear(r.stream, z, s.drawn() ? dropped(r, x, p, group, param, s) : x, p.weight[param], z);
        ops::dora_magnitude_backward(r.stream, g.lora.magnitude[param], z, dy, p.norm[param]);
      }
      ops::dora_scale(r.stream, dy_of[param], dy, magnitude, p.norm[param]);
    });
    const Scope of_adapters(r.memory);
    const Tensor dxa = r.memory.take(Use::scratch, "d xa", xa.dtype, xa.shape);
    each_member(p, group, [&](size_t param, int i, int64_t row) {
      const Tensor b = p.lora.b[param];
      const Tensor dy = dy_of[param] ? dy_of[param] : dys.begin()[i];
      const bool adds = i > 0 && p.shares_a(group);
      if (b) ops::lora_up_backward(r.stream, dxa.rows(row, b.shape[1]), g.lora.b[param], dy, xa.rows(row, b.shape[1]), b, p.scale(int(param)), adds);
    });
    if (!s.drawn()) ops::lora_down_backward(r.stream, dx, g.lora.a[group], dxa, x, a), below = dx;
    else
      each_module(p, group, [&](size_t first, int place, int matrices, int64_t row) {
        const Scope of_module(r.memory);
        const auto rows = [&](const Tensor& t) { return t.rows(row, p.lora.b[first].shape[1]); };
        const Tensor d = dx ? r.memory.take(Use::scratch, "d x of an adapter", x.dtype, x.shape) : Tensor{};
        ops::lora_down_backward(r.stream, d, rows(g.lora.a[group]), rows(dxa), dropped(r, x, p, group, first, s), rows(a));
        for (int i = 0; i < matrices; ++i) {
          Tensor& dz = dy_of[first + size_t(i)];
          if (dz && dx) {
            subtract_from(r, dz, dys.begin()[place + i]);
            ops::scale(r.stream, dz, -1);  // dz - dy: what is left of x has that much more of a gradient than the rest
            ops::linear_backward_input(r.stream, d, dz, p.weight[int(first) + i], d);
          }
          dz = {};  // all of x has dy's
        }
        if (dx) ops::dropout(r.stream, dx, d, s.drawn().share, mask_of(p, group, first, s), below), below = dx;
      });
  }
  each_member(p, group, [&](size_t param, int i, int64_t) {
    const Tensor dy = dys.begin()[i];
    if (dx) ops::linear_backward_input(r.stream, dx, dy_of[param] ? dy_of[param] : dy, p.weight[param], below), below = dx;
    if (g.weight[param]) ops::linear_backward_weight(r.stream, g.weight[param], dy, x);
    if (const Tensor bias = g.weight[bias_of(int(param))]) ops::add_bias_backward(r.stream, bias, dy);
  });
}

}  // namespace thimble::nn
