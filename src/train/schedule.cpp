// Products and quotients stand in the order of the Python source, so that equal doubles come out.
#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace thimble::train {
namespace {

constexpr double pi = std::numbers::pi;

double above(double factor, double least) { return std::max(0.0, factor * (1.0 - least) + least); }

double rise(Ramp r, double progress) {
  switch (r) {
    case Ramp::cosine: return 0.5 * (1.0 - std::cos(pi * progress));
    case Ramp::one_minus_root: return 1.0 - std::sqrt(1.0 - progress);
    default: return progress;
  }
}
double fall(Ramp r, double progress, double cycles) {
  switch (r) {
    case Ramp::cosine: return 0.5 * (1.0 + std::cos(pi * cycles * 2.0 * progress));
    case Ramp::one_minus_root: return 1.0 - std::sqrt(progress);
    default: return 1.0 - progress;
  }
}

double in_warmup(const Schedule& s, int64_t step) {
  const double share = double(step) / double(std::max<int64_t>(1, s.warmup));
  if (s.kind == ScheduleKind::warmup_stable_decay) return above(rise(s.rise, share), s.least);
  if (s.kind != ScheduleKind::cosine_warmup_with_min_lr) return share;
  if (s.warmup_from < 0) return (double(step) + 1.0) / std::max(1.0, double(s.warmup));
  return s.warmup_from + (1.0 - s.warmup_from) * double(step) / std::max(1.0, double(s.warmup) - 1.0);
}

// Of the peak, from the end of the warm-up on.
double factor(const Schedule& s, int64_t step) {
  const double span = double(std::max<int64_t>(1, s.total - s.warmup)), progress = double(step - s.warmup) / span;
  switch (s.kind) {
    case ScheduleKind::linear: return std::max(0.0, double(s.total - step) / span);
    case ScheduleKind::cosine: return std::max(0.0, 0.5 * (1.0 + std::cos(pi * s.cycles * 2.0 * progress)));
    case ScheduleKind::cosine_with_restarts:
      return progress >= 1.0 ? 0.0 : std::max(0.0, 0.5 * (1.0 + std::cos(pi * std::fmod(s.cycles * progress, 1.0))));
    case ScheduleKind::cosine_with_min_lr: return above(0.5 * (1.0 + std::cos(pi * s.cycles * 2.0 * progress)), s.least);
    case ScheduleKind::cosine_warmup_with_min_lr:
      return above(0.5 * (1.0 + std::cos(pi * s.cycles * 2.0 * ((double(step) - double(s.warmup) + 1.0) / span))), s.least);
    case ScheduleKind::polynomial: {
      if (step > s.total) return s.end / s.peak;
      const double left = s.total == s.warmup ? 0 : 1 - double(step - s.warmup) / double(s.total - s.warmup);
      return ((s.peak - s.end) * std::pow(left, s.power) + s.end) / s.peak;
    }
    case ScheduleKind::inverse_sqrt: return 1.0 / std::sqrt(double(step + s.timescale - s.warmup) / double(s.timescale));
    case ScheduleKind::warmup_stable_decay:
      if (step < s.warmup + s.stable) return 1;
      if (step >= s.warmup + s.stable + s.decay) return s.least;
      return above(fall(s.fall, double(step - s.warmup - s.stable) / double(std::max<int64_t>(1, s.decay)), s.cycles), s.least);
    default: return 1;
  }
}

}  // namespace

double learning_rate(const Schedule& s, int64_t step) {
  const bool warming = s.kind != ScheduleKind::constant && step < s.warmup;
  return s.peak * (warming ? in_warmup(s, step) : factor(s, step));
}

int64_t warmup_steps(int64_t steps, double ratio, int64_t total) { return steps > 0 ? steps : int64_t(std::ceil(double(total) * ratio)); }

}  // namespace thimble::train
