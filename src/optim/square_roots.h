// Square roots of many floats, eight at a time. Written out because std::sqrt must set errno for negatives, which keeps the compiler from
// vectorising any loop that has it. Internal to optim.
#pragma once
#include <cmath>
#include <cstdint>

#ifdef __AVX__
#include <immintrin.h>
#endif

namespace thimble::optim {

inline void take_square_roots(float* x, int64_t n) {
  int64_t i = 0;
#ifdef __AVX__
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_sqrt_ps(_mm256_loadu_ps(x + i)));
#endif
  for (; i < n; ++i) x[i] = std::sqrt(x[i]);
}

}  // namespace thimble::optim
