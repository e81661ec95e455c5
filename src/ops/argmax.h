// The likeliest token of each row, so that greedy decoding brings one number to the host and not a row of logits.
#pragma once
#include <span>

#include "device/stream.h"

namespace thimble::ops {

// logits (T, V) f32; ids (T) i32, overwritten: the first of a row's largest, or -1 where a number of the row is not finite.
void argmax(Stream&, Tensor ids, Tensor logits);

// The same of a row on the host.
int32_t likeliest(std::span<const float> logits);

}  // namespace thimble::ops
