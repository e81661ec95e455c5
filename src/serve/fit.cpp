// A layer on the device is read at its memory's speed, which nothing else has, so as many as fit lie there. What the others take is the longer of
// link and processor: one falls as the other rises, with one lowest place between.
#include "serve/fit.h"

#include <algorithm>
#include <map>
#include <ranges>

namespace thimble::serve {

Fit fit(const DeviceSpec& spec, EngineShape shape, const plan::Budget& budget) {
  const int layers = int(shape.model.layers.size());
  const auto with = [&](int resident, int processor) {
    shape.resident_layers = resident, shape.processor_layers = processor;
    return Fit{shape, Engine::rehearse(spec, shape)};
  };
  const auto fits = [&](const Fit& f) { return plan::fits(f.outcome, budget); };
  shape.embedding_on_host = false;
  Fit best = with(layers, 0);
  if (fits(best)) return best;
  if (nn::can_host_embedding(shape.model, shape.method, spec)) {
    shape.embedding_on_host = true;
    if (best = with(layers, 0); fits(best)) return best;
  }
  const auto tried = std::views::iota(0, layers);
  const auto too_many = std::ranges::partition_point(tried, [&](int resident) { return with(resident, 0).outcome.device() <= budget.device; });
  best = with(std::max(0, int(too_many - tried.begin()) - 1), 0);
  if (!fits(best) || !spec.reads_pinned || (spec.kind != DeviceKind::cpu && !spec.processor)) return best;
  // Thirds of the interval, each end once: between two equal times the lowest lies too.
  const int resident = best.shape.resident_layers;
  std::map<int, Fit> known;
  const auto seconds = [&](int processor) {
    const auto at = known.find(processor);
    return (at != known.end() ? at : known.emplace(processor, with(resident, processor)).first)->second.outcome.window_seconds;
  };
  int low = 0, high = layers - resident;
  while (high - low > 2) {
    const int third = (high - low) / 3, a = low + third, b = high - third;
    if (seconds(a) <= seconds(b)) high = b;
    else low = a;
  }
  for (int p = low; p <= high; ++p)
    if (seconds(p) < best.outcome.window_seconds && fits(known.at(p))) best = known.at(p);
  return best;
}

std::string describe(const EngineShape& s) {
  const int layers = int(s.model.layers.size()), resident = s.resident_layers < 0 ? layers : s.resident_layers;
  if (resident == layers) return "";
  return fmt::format("{} of {} layers on the device, {} streamed, {} multiplied by the processor", resident, layers, layers - resident - s.processor_layers, s.processor_layers);
}

}  // namespace thimble::serve
