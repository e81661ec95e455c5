// The learning rate of each step, exactly as transformers' schedulers give it (transformers/optimization.py with torch's LambdaLR), so that
// a run started there and one started here take the same steps.
#pragma once
#include <cstdint>

namespace thimble::train {

enum class ScheduleKind : uint8_t { linear, cosine, constant, constant_with_warmup };

struct Schedule {
  ScheduleKind kind = ScheduleKind::linear;
  double peak = 5e-5;
  int64_t warmup = 0;  // steps; `constant` has none, whatever stands here
  int64_t total = 1;
};

// Step 0 is the first optimizer step: with a warmup its rate is 0, as there.
double learning_rate(const Schedule&, int64_t step);

// TrainingArguments.get_warmup_steps: a number of steps where one is given, else ceil(ratio * total).
int64_t warmup_steps(int64_t steps, double ratio, int64_t total);

}  // namespace thimble::train
