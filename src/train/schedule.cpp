// Products and quotients stand in the order of the Python source, so that equal doubles come out.
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace thimble::train {

double learning_rate(const Schedule& s, int64_t step) {
  if (s.kind == ScheduleKind::constant) return s.peak;
  if (step < s.warmup) return s.peak * (double(step) / double(std::max<int64_t>(1, s.warmup)));
  const double span = double(std::max<int64_t>(1, s.total - s.warmup));
  switch (s.kind) {
    case ScheduleKind::linear: return s.peak * std::max(0.0, double(s.total - step) / span);
    case ScheduleKind::cosine: {
      const double progress = double(step - s.warmup) / span;
      return s.peak * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * 0.5 * 2.0 * progress)));
    }
    default: return s.peak;
  }
}

int64_t warmup_steps(int64_t steps, double ratio, int64_t total) { return steps > 0 ? steps : int64_t(std::ceil(double(total) * ratio)); }

}  // namespace thimble::train
