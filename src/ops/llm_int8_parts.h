// What the passes of an INT8 product exchange. Internal to ops/llm_int8.
#pragma once
#include "quant/weight.h"

namespace thimble::ops {

// T tokens, K columns, N rows of the weight, O outlier columns at most; types are x's where none is said.
struct Int8Product {
  Tensor x;             // (T, K)
  quant::Weight w;      // (N, K)
  Tensor column_most;   // (K) f32: the largest magnitude of each column
  Tensor threshold;     // (1) f32: that no more than O columns reach
  Tensor columns;       // (O) i32: those that do, in order; -1 behind them
  Tensor found;         // (1) i32: how many they are
  Tensor codes;         // (T, K): whole numbers from -127 to 127, 0 in outlier columns; i8 where the device multiplies these
  Tensor row_scales;    // (T) f32: the largest magnitude below the threshold
  Tensor x_outliers;    // (T, O); of this and of w_outliers the cpu fills what is found alone
  Tensor w_codes;       // (N, K), of codes' type
  Tensor w_outliers;    // (N, O): numbers, not codes
};

}  // namespace thimble::ops
