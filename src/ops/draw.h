// A token drawn of a row of logits, as transformers' warpers and a seeded draw do it: temperature, top-k, top-p, min-p. What is compared and added are
// whole numbers, so every device draws the same token.
//
// A token weighs 2^44 exp((score - best) / temperature), rounded down (draw_law.h). Kept are those whose score is at least the top_k-th largest; of these, the likeliest ones
// down to the score where they weigh top_p of all these; of these, those min_p times as likely as the likeliest. Equals at an edge all stay. Drawn is the
// first, by id, with which those kept so far weigh more than random / 2^64 of all that are kept.
#pragma once
#include <array>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "device/stream.h"

namespace thimble::ops {

struct Drawing {
  double temperature = 1;         // > 0
  int64_t top_k = 0;              // 0: all
  double top_p = 1, min_p = 0;    // 1, 0: all
  uint64_t random = 0;
};

// logits (T, V) f32, V < 2^19; ids (T) i32: of each row that is to be drawn of, overwritten by the token, or by -1 where a logit is not finite.
void draw(Stream&, Tensor ids, Tensor logits, std::span<const std::optional<Drawing>> rows);
inline void draw(Stream& s, Tensor id, Tensor logits, const Drawing& how) { draw(s, id, logits, std::array{std::optional(how)}); }

// The same of a row on the host.
int32_t drawn(std::span<const float> logits, const Drawing&);
// What it is drawn of, by falling score and rising id, with probabilities; of finite logits.
std::vector<std::pair<int32_t, double>> candidates(std::span<const float> logits, const Drawing&);

}  // namespace thimble::ops
