// What a text holds already becomes less likely, before a token is drawn: transformers' repetition penalty, then OpenAI's two.
#pragma once
#include <cmath>

#include "device/both.h"
#include "device/stream.h"

namespace thimble::ops {

struct Penalties {
  double repetition = 1;              // of tokens in prompt and answer: logits > 0 are divided by it, others multiplied (Keskar et al. 2019)
  double presence = 0, frequency = 0;  // taken from the logits of tokens in the answer: once, and for each time
  bool any() const { return repetition != 1 || presence != 0 || frequency != 0; }
};

constexpr int32_t penalized_in_prompt = 1 << 30;  // of a count: not of the answer alone

// The logit of a token that the text holds, so many times in its answer.
THIMBLE_BOTH inline float penalized(float logit, int64_t in_answer, const Penalties& by) {
  const double x = logit, repeated = x > 0 ? x / by.repetition : fma(x, by.repetition, 0.0), once = in_answer > 0 ? by.presence : 0;
  return float(repeated - fma(by.frequency, double(in_answer), once));
}

// logits (1, V) f32, in place; text (n) i32, of which the first `prompt` are the prompt's; last (1) i32: becomes the text's last token before;
// counts (V) i32: zeros, and left so. Ids below 0 are none.
void penalize(Stream&, Tensor logits, Tensor text, int64_t prompt, Tensor last, Tensor counts, const Penalties&);

}  // namespace thimble::ops
