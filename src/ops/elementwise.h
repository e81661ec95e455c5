// The plain ones: set, copy with conversion, add, scale, cap, sum of squares.
#pragma once
#include "device/stream.h"

namespace thimble::ops {

void zero(Stream&, Tensor y);                       // every byte 0
void convert(Stream&, Tensor y, Tensor x);          // y = x, any float types, as many elements; rows of one shape
void add(Stream&, Tensor y, Tensor x);              // y += x, of one type and shape
void scale(Stream&, Tensor y, float factor);        // y *= factor
void soft_cap(Stream&, Tensor y, float cap);        // y = cap tanh(y / cap)
// sum (1) f32 += sum of x^2, in double, in an order that does not depend on the thread count. x of any shape, f32.
void sum_of_squares(Stream&, Tensor sum, Tensor x);

}  // namespace thimble::ops
