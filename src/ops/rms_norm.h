// Root-mean-square norm (Zhang & Sennrich 2019).                                        T tokens, C channels
// y = x * rstd * (w + offset), rstd = 1 / sqrt(mean(x^2) + eps); offset is 1 where a family's weights lie around 0 (Gemma).
// x y plus dx dy (T, C) of the activations' type; w (C) any float; rstd (T) f32; dw (C) f32
#pragma once
#include "device/stream.h"

namespace thimble::ops {

// y, rstd overwritten. plus: null, or what is added to y, which is rounded before as if on its own
void rms_norm(Stream&, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps, float offset = 0, Tensor plus = {});
// dx ADDED to (the residual's path); dw added to, or null
void rms_norm_backward(Stream&, Tensor dx, Tensor dw, Tensor dy, Tensor x, Tensor w, Tensor rstd, float offset = 0);

}  // namespace thimble::ops
