// Which way a product goes is decided by the number of tokens and the format alone, so plan and run decide alike.
#include "ops/linear.h"

#include <algorithm>

#include "ops/elementwise.h"
#include "ops/llm_int8.h"

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

}  // namespace

void linear(Stream& s, Tensor y, Tensor x, const quant::Weight& w, Tensor c) {
  check_shapes(y, x, w);
  const Scope scope(s.arena);
  if (w.format == quant::FormatId::int8) return llm_int8(s, y, x, w, c);
  matmul(s, {.y = y, .a = x, .b = unpacked(s, w, x.dtype), .tb = Trans::yes, .c = c, .name = "linear"});
}

void linear_few(Stream& s, Tensor x, std::span<const quant::FewProduct> products) {
  while (!products.empty()) {  // those of one format go together
    const auto& w = *products.front().w;
    const auto alike = [&](const quant::FewProduct& p) { return p.w->format == w.format && p.w->parts[0].dtype == w.parts[0].dtype && p.w->on_processor == w.on_processor; };
    const auto run = products.first(size_t(std::find_if_not(products.begin(), products.end(), alike) - products.begin()));
    if (w.on_processor) few_on_processor(s, x, run);
    else if (const auto& format = quant::format(w.format); x.shape[0] <= format.few_tokens) format.multiply_few(s, x, run);
    else for (const auto& p : run) linear(s, p.y, x, *p.w, p.c);
    products = products.subspan(run.size());
  }
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
