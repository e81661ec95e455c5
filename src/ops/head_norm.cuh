// A warp norms a head of D channels and turns it by RoPE, as ops/rope.h has both.
#pragma once
#include "device/kernel.cuh"

namespace thimble::ops {

// row (D): room in shared memory. weight(c): the norm's, its offset in it. angle(c): cosine and sine of pair c, below `half`; channels from 2 * half on do
// not turn. put(c, x) takes the results, when all of `from` has been read.
template <class X, class Weight, class Angle, class Put>
__device__ __forceinline__ void norm_and_turn(X* row, const X* from, int dim, int half, float eps, Weight&& weight, Angle&& angle, Put&& put) {
  const int lane = int(threadIdx.x) % 32;
  float squares = 0;
  for (int c = lane; c < dim; c += 32) {
    row[c] = from[c];
    squares += float(row[c]) * float(row[c]);
  }
  const float rstd = 1.0f / sqrtf(warp_reduce(squares, Add{}) / float(dim) + eps);
  for (int c = lane; c < dim; c += 32) row[c] = X(float(row[c]) * rstd * weight(c));
  __syncwarp();
  for (int c = lane; c < half; c += 32) {
    const float2 a = angle(c);
    const auto low = float(row[c]), high = float(row[c + half]);
    put(c, X(low * a.x - high * a.y));
    put(c + half, X(high * a.x + low * a.y));
  }
  for (int c = 2 * half + lane; c < dim; c += 32) put(c, row[c]);
}
__device__ __forceinline__ float2 angle_of(float position, float inv_freq, float factor) {
  float sine, cosine;
  sincosf(position * inv_freq, &sine, &cosine);
  return {cosine * factor, sine * factor};
}

}  // namespace thimble::ops
