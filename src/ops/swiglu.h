// Gated activation (Shazeer 2020): y = silu(gate) * up, elementwise.                    all (T, F) of the activations' type
#pragma once
#include "device/stream.h"

namespace thimble::ops {

void swiglu(Stream&, Tensor y, Tensor gate, Tensor up);                                   // y overwritten
void swiglu_backward(Stream&, Tensor dgate, Tensor dup, Tensor dy, Tensor gate, Tensor up);  // dgate, dup overwritten; dup may be dy

}  // namespace thimble::ops
