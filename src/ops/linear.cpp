// Which way a product goes is decided by the number of tokens, the format and the device's spec alone, so plan and run decide alike.
#include "ops/linear_one.h"

#include <algorithm>

#include "ops/attention_few.h"
#include "ops/bias.h"
#include "ops/elementwise.h"
#include "ops/llm_int8.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "quant/nf4.h"

namespace thimble::ops {
namespace {

// The weight as a matrix of the activations' type: itself, or unpacked where it has a place for that, else into scratch of the caller's scope.
Tensor unpacked(Stream& s, const quant::Weight& w, DType activations) {
  if (w.format == quant::FormatId::dense && (w.dense().dtype == activations)) return w.dense();
  if (w.unpacked && w.unpacked->filled) return w.unpacked->dense;
  const Tensor t = w.unpacked ? w.unpacked->dense : s.scratch("unpacked weight", activations, w.shape);
  check(t.dtype == activations, "a weight is unpacked to the activations' type");
  quant::format(w.format).unpack(s, t, w);
  if (w.unpacked) w.unpacked->filled = true;
  return t;
}

void check_shapes(const Tensor& out, const Tensor& in, const quant::Weight& w) {
  check(out.shape.rank() == 2 && in.shape.rank() == 2 && w.shape.rank() == 2 && out.shape[0] == in.shape[0] && out.shape[1] == w.shape[0] && in.shape[1] == w.shape[1],
        "a linear layer's shapes agree");
}

// Kernels write and read pinned memory themselves: the lanes of copies may be busy with whole layers.
void few_on_processor(Stream& s, Tensor x, std::span<const quant::FewProduct> products) {
  const Scope scope(*s.pinned);
  Stream there = s.of_processor();
  const auto brought = [&](Tensor t) {
    if (!t) return t;
    const Tensor to = there.scratch("for the processor", t.dtype, t.shape);
    convert(s, to, t);
    return to;
  };
  std::array<quant::FewProduct, quant::most_few_products> on_host;
  const Tensor from = brought(x);
  for (size_t i = 0; i < products.size(); ++i) {
    const auto& [y, w, c] = products[i];
    on_host[i] = {there.scratch("by the processor", y.dtype, y.shape), w, brought(c)};
  }
  s.device.synchronize();
  quant::format(products.front().w->format).multiply_few(there, from, std::span(on_host).first(products.size()));
  for (size_t i = 0; i < products.size(); ++i) convert(s, products[i].y, on_host[i].y);
}

// Shapes that the kernel's tiles and loads divide.
bool can_be_one(const DeviceSpec& spec, const Few& f) {
  const auto plain = [](const Tensor& t) { return !t || t.dtype == DType::f32 || t.dtype == DType::bf16; };
  const int64_t columns = f.x.shape[1];
  bool can = f.x.shape[0] == 1 && f.x.dtype == DType::bf16 && columns > 0 && columns % quant::nf4_block == 0 && plain(f.norm.weight);
  if (f.join) can = can && f.norm && plain(f.join.norm.weight) && columns <= most_joined_columns;
  for (size_t i = 0; i < f.products.size(); ++i) {
    const auto& [y, w, c] = f.products[i];
    can = can && w->format == f.products[0].w->format && !w->on_processor && w->shape[0] % 8 == 0 && w->shape[0] < 1 << 24 && w->shape.count() < int64_t{1} << 36 && plain(y) && plain(f.after.bias[i]) &&
          y.dtype == f.products[0].y.dtype;
  }
  const Turn& turn = f.after.turn;
  if (turn) can = can && turn.head_dim % 8 == 0 && turn.inv_freq.shape[0] * 2 == turn.head_dim && f.products.size() >= 2;
  if (f.after.gated) can = can && !turn && f.products.size() == 2 && f.products[0].w->shape == f.products[1].w->shape;
  if (const auto& [q, keys, values, shape, norms, turning, last] = f.attend; q) {
    can = can && q.shape[0] == 1 && (q.shape[2] == 64 || q.shape[2] == 128) && q.shape[1] <= most_attending_heads && attention_is_few(spec, q, keys, shape);
    if (last) can = can && plain(norms.weight[0]) && plain(norms.weight[1]) && turning.inv_freq.shape[0] * 2 == q.shape[2];
  }
  return can;
}

}  // namespace

void linear(Stream& s, Tensor y, Tensor x, const quant::Weight& w, Tensor c) {
  check_shapes(y, x, w);
  const Scope scope(s.arena);
  if (w.format == quant::FormatId::int8) return llm_int8(s, y, x, w, c);
  matmul(s, {.y = y, .a = x, .b = unpacked(s, w, x.dtype), .tb = Trans::yes, .c = c, .name = "linear"});
}

bool linear_is_one(const DeviceSpec& spec, std::span<const Few> chain) {
  const auto& first = chain.front().products.front();
  if (spec.kind != DeviceKind::cuda || spec.capability < 90 || (first.w->format != quant::FormatId::nf4 && first.w->format != quant::FormatId::nf4_dq)) return false;
  for (const Few& f : chain)  // what is added comes early: it may be no result of the same link
    for (const auto& p : f.products)
      if (p.c && ((f.join && p.c.data == f.x.data) || p.c.data == f.after.gated.data || std::any_of(f.products.begin(), f.products.end(), [&](const auto& q) { return &q != &p && p.c.data == q.y.data; }))) return false;
  if (std::count_if(chain.begin(), chain.end(), [](const Few& f) { return bool(f.attend); }) > 1) return false;
  return std::all_of(chain.begin(), chain.end(), [&](const Few& f) { return can_be_one(spec, f) && f.products[0].w->format == first.w->format && f.products[0].y.dtype == first.y.dtype; });
}

void finish_few(Stream& s, std::span<const quant::FewProduct> products, const After& after) {
  for (size_t i = 0; i < products.size(); ++i)
    if (after.bias[i]) add_bias(s, products[i].y, after.bias[i]);
  const auto heads = [&](const Tensor& t) { return t.view({t.shape[0], t.shape[1] / after.turn.head_dim, after.turn.head_dim}); };
  if (after.turn) rope(s, {heads(products[0].y), heads(products[1].y)}, after.turn.positions, after.turn.inv_freq, after.turn.factor);
  if (after.gated) swiglu(s, after.gated, products[0].y, products[1].y, after.activation);
}

void linear_few(Stream& s, std::span<const Few> chain) {
  check(!chain.empty() && std::ssize(chain) <= most_links, "a chain of products has one to four links");
  const DeviceSpec& spec = s.device.spec();
  const Scope scope(s.arena);
  if (linear_is_one(spec, chain)) {
    Work all{.name = "nf4 multiply"};
    const auto add = [&](const Work& work) { all.flops += work.flops, all.bytes += work.bytes, all.matrix = work.matrix; };
    Tensor partial;
    for (const Few& f : chain) {
      if (const auto& [q, keys, values, shape, norms, turn, last] = f.attend; q) {
        add(attention_work(s, f.x.view(q.shape), {}, q, keys, values, shape));
        partial = s.scratch("attention of splits", DType::f32, attention_few_partial(q, shape));
      }
      add(quant::few_tokens_work(all.name, f.x, f.products));
    }
    return launch(s, all, [] {}, [&](auto& cuda) { linear_one_cuda(cuda, chain, partial); });
  }
  if (const auto& [q, keys, values, shape, norms, turn, last] = chain.front().attend; q && !linear_is_one(spec, chain.first(1))) {
    if (last) {
      const Tensor row = keys.rows(keys.shape[0] - 1, 1);
      convert(s, row, last.view(row.shape));
      norm_and_rope(s, {q, row}, norms, turn.positions, turn.inv_freq, turn.factor);
    }
    attention(s, chain.front().x.view(q.shape), {}, q, keys, values, shape);
    std::array<Few, most_links> rest;
    std::copy(chain.begin(), chain.end(), rest.begin());
    rest[0].attend = {};
    return linear_few(s, std::span(rest).first(chain.size()));
  }
  if (chain.size() > 1) {  // as many as may go together, and the others
    size_t n = chain.size() - 1;
    while (n > 1 && !linear_is_one(spec, chain.first(n))) --n;
    linear_few(s, chain.first(n));
    return linear_few(s, chain.subspan(n));
  }
  const auto& [x, products, norm, after, join, attend] = chain.front();
  if (join) {
    rms_norm(s, x, s.scratch("rstd", DType::f32, {x.shape[0]}), join.part, join.norm.weight, join.norm.eps, join.norm.offset, join.residual);
    return linear_few(s, x, products, norm, after);
  }
  if (norm) {
    const Tensor normed = s.scratch("normed", x.dtype, x.shape);
    rms_norm(s, normed, s.scratch("rstd", DType::f32, {x.shape[0]}), x, norm.weight, norm.eps, norm.offset);
    return linear_few(s, normed, products, {}, after);
  }
  for (auto rest = products; !rest.empty();) {  // those of one format go together
    const auto& w = *rest.front().w;
    const auto alike = [&](const quant::FewProduct& p) { return p.w->format == w.format && p.w->parts[0].dtype == w.parts[0].dtype && p.w->on_processor == w.on_processor; };
    const auto run = rest.first(size_t(std::find_if_not(rest.begin(), rest.end(), alike) - rest.begin()));
    if (w.on_processor) few_on_processor(s, x, run);
    else if (x.shape[0] <= quant::most_few_tokens) quant::format(w.format).multiply_few(s, x, run);
    else for (const auto& p : run) linear(s, p.y, x, *p.w, p.c);
    rest = rest.subspan(run.size());
  }
  finish_few(s, products, after);
}

void linear_backward_input(Stream& s, Tensor dx, Tensor dy, const quant::Weight& w, Tensor c) {
  check_shapes(dy, dx, w);
  const Scope scope(s.arena);
  matmul(s, {.y = dx, .a = dy, .b = unpacked(s, w, dy.dtype), .c = c, .name = "linear dx"});
}

void linear_backward_weight(Stream& s, Tensor dw, Tensor dy, Tensor x) {
  matmul(s, {.y = dw, .a = dy, .ta = Trans::yes, .b = x, .c = dw, .name = "linear dw"});
}

}  // namespace thimble::ops
