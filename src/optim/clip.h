// Clipping by the global norm (Pascanu et al. 2013), as torch.nn.utils.clip_grad_norm_ does it.
#pragma once
#include "device/stream.h"

namespace thimble::optim {

// scale (1) f32 = u min(1, most / (norm + 1e-6)), norm = u sqrt(squares[0]), u = unscale[0], by which gradients are too large; u where most is 0.
// NaN where the norm or the loss (1) is not finite, which an update takes as: leave everything as it is.
void clip_scale(Stream&, Tensor scale, Tensor squares, Tensor loss, Tensor unscale, float most);

}  // namespace thimble::optim
