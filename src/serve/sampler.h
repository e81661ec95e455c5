// How the next token comes of logits, as transformers' logits processors and warpers do it, in their order: penalties (ops/penalties.h), temperature, top-k,
// top-p, min-p, then a seeded draw (ops/draw.h).
#pragma once
#include <cstdint>
#include <optional>

#include "base/file.h"
#include "ops/draw.h"
#include "ops/penalties.h"

namespace thimble::serve {

struct Sampling {
  double temperature = 0;  // 0: the likeliest
  int64_t top_k = 0;       // 0: all
  double top_p = 1;
  double min_p = 0;                // of the likeliest one's probability
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;  // ops/penalties.h
  uint64_t seed = 0;
};
// What generation_config.json of a model folder says; greedy where it is absent or says do_sample: false. Throws Error (bad_input).
Sampling read_sampling(const fs::path& folder);

class Sampler {
 public:
  explicit Sampler(const Sampling& how) : how_(how) {}
  // The next token is what ops::draw gives of drawing(), or ops::argmax where that is none, after ops::penalize where there are penalties; take() counts it.
  // Throws Error (bad_input) where it is -1: logits that are not finite.
  ops::Penalties penalties() const { return {how_.repetition_penalty, how_.presence_penalty, how_.frequency_penalty}; }
  std::optional<ops::Drawing> drawing(uint64_t later = 0) const;  // of the token that comes so many after the next
  int32_t take(int32_t id);

 private:
  Sampling how_;
  uint64_t taken_ = 0;  // tokens
};

}  // namespace thimble::serve
