// From logits to the next token: greedy, or a seeded draw after temperature, top-k and top-p. Runs on the host, on one row.
#pragma once
#include <cstdint>
#include <span>

#include "base/philox.h"

namespace thimble::serve {

struct Sampling {
  double temperature = 0;  // 0: the arg max
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const Sampling& how) : how_(how), draws_{how.seed, 0x5a3b1e, 0} {}
  int32_t next(std::span<const float> logits);

 private:
  Sampling how_;
  Draws draws_;
};

}  // namespace thimble::serve
