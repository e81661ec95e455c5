// y (M, N) = scale * a . b + c; either operand may be stored transposed. f32 or bf16 each; sums are f32.
// Computed in bf16 where a is bf16 and the device's matrix units take it, else in f32; operands of another type are first converted, in
// scratch. Whole numbers of 8 bits multiply to sums of 32, exactly, on a cpu whose spec says sums_int8. On the cpu oneDNN computes it, on cuda
// cuBLASLt within the spec's workspace cap.
#pragma once
#include "device/stream.h"

namespace thimble::ops {

enum class Trans : uint8_t { no, yes };

struct MatmulArgs {
  Tensor y;                       // (M, N), f32 or bf16; i32 where a and b are i8, with neither scale nor c
  Tensor a; Trans ta = Trans::no; // (M, K), or (K, M) when transposed
  Tensor b; Trans tb = Trans::no; // (K, N), or (N, K) when transposed
  float scale = 1;                // of the product
  Tensor c{};                     // (M, N), y's type: added to the product. y itself, or a matrix apart from it; null: nothing is added
  Tensor used{};                  // (1) i32: that many of K, the first, are not 0, as an op before found; the cpu leaves the rest out. Null: all
  const char* name = "matmul";    // as the profile shows it
};
void matmul(Stream&, const MatmulArgs&);

}  // namespace thimble::ops
