// Philox over sixteen counters at a time, in loops that the compiler vectorises; base/philox.h has it for one.
#include "optim/stochastic_rounding.h"

#include <algorithm>
#include <bit>

namespace thimble::optim {
namespace {

constexpr int64_t at_once = 16;

// words[w][t] = word w of the draw of counter first + t, t < draw_stride.
void draw(uint32_t (&words)[4][draw_stride], uint64_t first, int64_t counters, const Draws16& d) {
  for (int64_t begin = 0; begin < counters; begin += at_once) {
    uint32_t c0[at_once], c1[at_once], c2[at_once], c3[at_once];
    for (int64_t i = 0; i < at_once; ++i) {
      const uint64_t counter = first + uint64_t(begin + i);
      c0[i] = uint32_t(counter), c1[i] = uint32_t(counter >> 32), c2[i] = d.place, c3[i] = d.step;
    }
    uint32_t k0 = uint32_t(d.seed), k1 = uint32_t(d.seed >> 32);
    for (int round = 0; round < 10; ++round) {
#pragma omp simd
      for (int64_t i = 0; i < at_once; ++i) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c0[i], p1 = uint64_t{0xCD9E8D57u} * c2[i];
        c0[i] = uint32_t(p1 >> 32) ^ c1[i] ^ k0;
        c2[i] = uint32_t(p0 >> 32) ^ c3[i] ^ k1;
        c1[i] = uint32_t(p1);
        c3[i] = uint32_t(p0);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    std::copy_n(c0, at_once, words[0] + begin);
    std::copy_n(c1, at_once, words[1] + begin);
    std::copy_n(c2, at_once, words[2] + begin);
    std::copy_n(c3, at_once, words[3] + begin);
  }
}

}  // namespace

void round_stochastically(bf16* to, const float* x, int64_t first, int64_t n, const Draws16& d) {
  alignas(64) uint32_t words[4][draw_stride];
  draw(words, uint64_t(first / draw_group * draw_stride), std::min(n, draw_stride), d);
  for (int64_t k = 0; k * draw_stride < n; ++k) {
    const uint32_t* bits = words[k / 2];
    const int shift = k % 2 == 0 ? 0 : 16;
    const float* from = x + k * draw_stride;
    bf16* rounded = to + k * draw_stride;
#pragma omp simd
    for (int64_t i = 0; i < std::min(draw_stride, n - k * draw_stride); ++i) {
      const auto u = std::bit_cast<uint32_t>(from[i]);
      const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
      rounded[i].bits = uint16_t((nan ? u | 0x400000u : u + (bits[i] >> shift & 0xffffu)) >> 16);
    }
  }
}

}  // namespace thimble::optim
