// Small ranks: thin products beside the base's. B's carry the scale.
#include "ops/lora.h"

namespace thimble::ops {

void lora_down(Stream& s, Tensor xa, Tensor x, Tensor a) { matmul(s, {.y = xa, .a = a, .b = x, .tb = Trans::yes, .name = "lora x.A"}); }

void lora_up(Stream& s, Tensor y, Tensor xa, Tensor b, float scale, Tensor c) {
  matmul(s, {.y = y, .a = xa, .ta = Trans::yes, .b = b, .tb = Trans::yes, .scale = scale, .c = c, .name = "lora xa.B"});
}

void lora_up_backward(Stream& s, Tensor dxa, Tensor db, Tensor dy, Tensor xa, Tensor b, float scale, bool adds) {
  matmul(s, {.y = db, .a = dy, .ta = Trans::yes, .b = xa, .tb = Trans::yes, .scale = scale, .c = db, .name = "lora dB"});
  matmul(s, {.y = dxa, .a = b, .ta = Trans::yes, .b = dy, .tb = Trans::yes, .scale = scale, .c = adds ? dxa : Tensor{}, .name = "lora d xa"});
}

void lora_down_backward(Stream& s, Tensor dx, Tensor da, Tensor dxa, Tensor x, Tensor a) {
  matmul(s, {.y = da, .a = dxa, .b = x, .c = da, .name = "lora dA"});
  if (dx) matmul(s, {.y = dx, .a = dxa, .ta = Trans::yes, .b = a, .name = "lora dx"});
}

}  // namespace thimble::ops
