// base/philox.h for kernels, which can call no std::array.
#pragma once
#include <cstdint>

namespace thimble {

__device__ __forceinline__ void philox(uint32_t (&out)[4], uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  out[0] = uint32_t(index), out[1] = uint32_t(index >> 32), out[2] = uint32_t(stream), out[3] = uint32_t(stream >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * out[0], p1 = uint64_t{0xCD9E8D57u} * out[2];
    const uint32_t c1 = out[1], c3 = out[3];
    out[0] = uint32_t(p1 >> 32) ^ c1 ^ k0, out[1] = uint32_t(p1), out[2] = uint32_t(p0 >> 32) ^ c3 ^ k1, out[3] = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

}  // namespace thimble
