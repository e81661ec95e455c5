// Softmax and negative log likelihood of one chunk of tokens, with the gradient made on the spot: logits never exist whole.
// targets (T) i32, -1: no loss, zero gradient. V vocabulary.
#pragma once
#include "device/stream.h"

namespace thimble::ops {

// loss (1) f32 += scale[0] * sum of token losses; scale (1) f32 on the device: 1 / target tokens of the whole window. correct (1) i32 +=
// tokens whose target is the arg max, or null. d (T, V), overwritten: scale * (softmax - onehot); the logits' own place, another of any float
// type, or null. cap: where it is not 0 the logits went through soft_cap with it, and the gradient is that of the logits before.
void cross_entropy(Stream&, Tensor loss, Tensor correct, Tensor logits, Tensor targets, Tensor scale, Tensor d = {}, float cap = 0);

}  // namespace thimble::ops
