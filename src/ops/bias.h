// What a linear layer with a bias adds to its product.                                  T tokens, N channels
// y dy (T, N) of the activations' type; b (N) any float; db (N) f32
#pragma once
#include "device/stream.h"

namespace thimble::ops {

void add_bias(Stream&, Tensor y, Tensor b);             // y += b, the same in every row
void add_bias_backward(Stream&, Tensor db, Tensor dy);  // db += the sum of dy over the tokens, in a fixed order

}  // namespace thimble::ops
