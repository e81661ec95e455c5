// Small ranks: three thin products forward and backward each, beside the base's. B's product carries the scale.
#include "ops/lora.h"

namespace thimble::ops {

void lora_down(Stream& s, Tensor xa, Tensor x, const Lora& l) {
  matmul(s, {.y = xa, .a = x, .b = l.a, .tb = Trans::yes, .name = "lora x.A"});
}

void lora_up(Stream& s, Tensor y, Tensor xa, const Lora& l, bool add) {
  matmul(s, {.y = y, .a = xa, .b = l.b, .tb = Trans::yes, .scale = l.scale, .add = add, .name = "lora xa.B"});
}

void lora_backward(Stream& s, Tensor dx, const LoraGrad& g, Tensor dy, Tensor x, Tensor xa, const Lora& l, bool add) {
  const Scope scope(s.arena);
  const Tensor dxa = s.scratch("d xa", xa.dtype, xa.shape);
  matmul(s, {.y = g.db, .a = dy, .ta = Trans::yes, .b = xa, .scale = l.scale, .add = true, .name = "lora dB"});
  matmul(s, {.y = dxa, .a = dy, .b = l.b, .scale = l.scale, .name = "lora d xa"});
  matmul(s, {.y = g.da, .a = dxa, .ta = Trans::yes, .b = x, .add = true, .name = "lora dA"});
  if (dx) matmul(s, {.y = dx, .a = dxa, .b = l.a, .add = add, .name = "lora dx"});
}

}  // namespace thimble::ops
