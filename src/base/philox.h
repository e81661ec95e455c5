// Random numbers by position: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
// The value at (seed, stream, index) never depends on order or threads, so recompute and resume repeat it exactly.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>

namespace thimble {

inline std::array<uint32_t, 4> philox(uint64_t seed, uint64_t stream, uint64_t index) {
  std::array<uint32_t, 4> c{uint32_t(index), uint32_t(index >> 32), uint32_t(stream), uint32_t(stream >> 32)};
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {uint32_t(p1 >> 32) ^ c[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k1, uint32_t(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

inline float to_unit(uint32_t bits) { return float(bits >> 8) * 0x1p-24f; }  // [0, 1), 24 bits

inline float uniform_at(uint64_t seed, uint64_t stream, uint64_t index) { return to_unit(philox(seed, stream, index)[0]); }

// Box-Muller on one counter value.
inline float normal_at(uint64_t seed, uint64_t stream, uint64_t index) {
  const auto r = philox(seed, stream, index);
  const float radius = std::sqrt(-2.0f * std::log(1.0f - to_unit(r[0])));
  return radius * std::cos(6.283185307179586f * to_unit(r[1]));
}

// A generator for code that draws in order: shuffles, worlds, samplers. State = (seed, stream, next), so it can be saved.
struct Draws {
  uint64_t seed = 0, stream = 0, next = 0;
  uint32_t bits() { return philox(seed, stream, next++)[0]; }
  float uniform() { return to_unit(bits()); }
  uint64_t below(uint64_t n) { return n ? (uint64_t(bits()) * n) >> 32 : 0; }  // [0, n), n < 2^32
};

}  // namespace thimble
