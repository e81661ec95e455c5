// Rates and rings are found by the address of their literal: a dry run of 80 layers must stay in the milliseconds.
#include "device/timeline.h"

namespace thimble {

OpRate Timeline::rate_of(const DeviceSpec& spec, const char* name) const {
  if (!spec.rates) return {.fixed = spec.op_seconds};
  for (const Known& known : rates_)
    if (known.name == name && known.of == &spec) return known.rate;
  const auto it = spec.rates->find(std::string_view(name));
  return rates_.emplace_back(&spec, name, it == spec.rates->end() ? OpRate{.fixed = spec.op_seconds} : it->second).rate;
}

Timeline::Cost Timeline::cost_of(const Entry& e) const {
  const DeviceSpec& spec = e.tier == Tier::device || !spec_.processor ? spec_ : *spec_.processor;
  const OpRate rate = rate_of(spec, e.name);
  return {rate.fixed + rate.a_byte * double(e.bytes), e.flops / (e.matrix ? spec.flops : spec.vector_flops) / rate.speed, double(e.bytes) / spec.memory_bandwidth / rate.speed};
}

void Timeline::add(const Entry& e) {
  if (e.kind == Entry::Kind::ran) return compute(seconds_of(e));
  if (e.kind != Entry::Kind::copied && e.kind != Entry::Kind::waited) return;
  auto ring = std::find_if(arrivals_.begin(), arrivals_.end(), [&](const auto& r) { return r.first == e.name; });
  if (ring == arrivals_.end()) ring = arrivals_.insert(arrivals_.end(), {e.name, {}});
  auto& at = ring->second;
  if (at.size() <= size_t(e.offset)) at.resize(size_t(e.offset) + 1, 0);
  if (e.kind == Entry::Kind::waited) {
    now_ = std::max(now_, at[size_t(e.offset)]);
    return;
  }
  const bool disk = e.tier == Tier::disk || e.to == Tier::disk;
  const auto lane = size_t(disk ? Lane::disk : e.tier == Tier::device ? Lane::out : Lane::in);
  const double seconds = double(e.bytes) / (disk ? spec_.disk_bandwidth : spec_.link_bandwidth);
  on_lane_[lane] += seconds;
  at[size_t(e.offset)] = lanes_[lane] = std::max({lanes_[lane], now_, at[size_t(e.offset)]}) + seconds;
}

}  // namespace thimble
