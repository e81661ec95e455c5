// The learning rate of each step, exactly as transformers' schedulers give it (transformers/optimization.py with torch's LambdaLR), so that
// a run started there and one started here take the same steps.
#pragma once
#include <cstdint>

namespace thimble::train {

enum class ScheduleKind : uint8_t {
  linear, cosine, cosine_with_restarts, cosine_with_min_lr, cosine_warmup_with_min_lr, constant, constant_with_warmup, polynomial, inverse_sqrt, warmup_stable_decay
};
enum class Ramp : uint8_t { linear, cosine, one_minus_root };  // of warmup_stable_decay: "linear", "cosine", "1-sqrt"

// Whatever a kind does not name is of no meaning to it. Their names in files: lr_scheduler_kwargs, options.h.
struct Schedule {
  ScheduleKind kind = ScheduleKind::linear;
  double peak = 5e-5;
  int64_t warmup = 0;  // steps; `constant` has none, whatever stands here
  int64_t total = 1;
  double cycles = 0.5;         // cosines; with restarts a whole number
  double least = 0;            // share of the peak: cosine with least rate, warmup_stable_decay
  double warmup_from = -1;     // cosine_warmup_with_min_lr: share of the peak that the first step has; below 0: 1 / warmup
  double end = 1e-7, power = 1;  // polynomial: the last rate
  int64_t timescale = 10000;   // inverse_sqrt
  int64_t stable = 0, decay = 0;  // warmup_stable_decay: steps
  Ramp rise = Ramp::linear, fall = Ramp::cosine;
};

// Step 0 is the first optimizer step: with a warmup its rate is 0, as there.
double learning_rate(const Schedule&, int64_t step);

// TrainingArguments.get_warmup_steps: a number of steps where one is given, else ceil(ratio * total).
int64_t warmup_steps(int64_t steps, double ratio, int64_t total);

}  // namespace thimble::train
