// From logits to the next token, as transformers' logits processors and warpers do, in their order: penalties, temperature, top-k, top-p,
// min-p, then a seeded draw. What it does on the host a device does likewise, to the bit (ops/penalties.h, ops/draw.h).
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

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
  void begin(std::span<const int32_t> prompt);     // a new answer
  int32_t next(std::span<const float> logits);     // and remembers it. Throws Error (bad_input) on logits that are not finite
  // next() gives what ops::draw gives of drawing(), or ops::argmax where that is none, after ops::penalize where there are penalties; take() remembers
  // what they gave. Throws Error (bad_input) where that is -1.
  ops::Penalties penalties() const { return {how_.repetition_penalty, how_.presence_penalty, how_.frequency_penalty}; }
  std::optional<ops::Drawing> drawing(uint64_t later = 0) const;  // of the token that comes so many after the next
  int32_t take(int32_t id);
  // What next() would draw from, likeliest first, with probabilities; one entry where it is greedy; of finite logits.
  std::vector<std::pair<int32_t, double>> candidates(std::span<const float> logits) const;

 private:
  std::span<const float> scores(std::span<const float> logits) const;  // after penalties; until the next call
  struct Seen { bool in_prompt = false; int64_t in_answer = 0; };
  Sampling how_;
  uint64_t taken_ = 0;  // tokens
  std::unordered_map<int32_t, Seen> seen_;
  mutable std::vector<float> scores_;
};

}  // namespace thimble::serve
