// Softmax and negative log likelihood of one chunk of tokens, with the gradient made on the spot: logits never exist whole.
// logits (T, V) f32 become their own gradient, scale * (softmax - onehot); targets (T) i32, -1: no loss, zero gradient. V vocabulary.
#pragma once
#include "device/stream.h"

namespace thimble::ops {

// loss (1) f32 += scale[0] * sum of token losses; scale (1) f32 on the device: 1 / target tokens of the whole window. correct (1) i32 +=
// tokens whose target is the arg max, or null. With gradient = false the logits stay as they are. cap: where it is not 0 the logits went
// through soft_cap with it, and the gradient is that of the logits before.
void cross_entropy(Stream&, Tensor loss, Tensor correct, Tensor logits, Tensor targets, Tensor scale, bool gradient, float cap = 0);

}  // namespace thimble::ops
