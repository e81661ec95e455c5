// Gated activation (Shazeer 2020): y = act(gate) * up, elementwise; act is silu or GELU by its tanh formula (transformers' gelu_pytorch_tanh).
// All (T, F) of the activations' type.
#pragma once
#include "device/stream.h"

namespace thimble::ops {

enum class Activation : uint8_t { silu, gelu_tanh };

void swiglu(Stream&, Tensor y, Tensor gate, Tensor up, Activation = Activation::silu);  // y overwritten
// dgate, dup overwritten; dup may be dy
void swiglu_backward(Stream&, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up, Activation = Activation::silu);

}  // namespace thimble::ops
