// Weights that are no weights: what a damaged or badly converted file holds where numbers should be.
#pragma once
#include "store/safetensors.h"

namespace thimble::store {

struct OddNumbers {
  int64_t nan = 0, infinite = 0, subnormal = 0;
  bool damaged() const { return nan > 0 || infinite > 0; }
};

// Of a tensor of F64, F32, BF16, F16 or the 8-bit floats F8_E4M3 and F8_E5M2, read once in pieces; none of any other.
OddNumbers odd_numbers(const SafetensorsFile&, const TensorInfo&);

}  // namespace thimble::store
