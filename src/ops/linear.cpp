// Which way a product goes is decided by the number of tokens and the format alone, so plan and run decide alike.
#include "ops/linear.h"

#include "ops/elementwise.h"

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

}  // namespace

void linear(Stream& s, Tensor y, Tensor x, const quant::Weight& w, Tensor c) {
  check_shapes(y, x, w);
  const Scope scope(s.arena);
  const auto& format = quant::format(w.format);
  if (x.shape[0] <= format.few_tokens) {
    const bool in_place = c && c.data == y.data;
    const Tensor out = in_place ? s.scratch("linear result", y.dtype, y.shape) : y;
    format.multiply_few(s, out, x, w);
    if (c) add(s, y, in_place ? out : c);
    return;
  }
  matmul(s, {.y = y, .a = x, .b = unpacked(s, w, x.dtype), .tb = Trans::yes, .c = c, .name = "linear"});
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
