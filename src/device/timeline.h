// When what a ledger writes would be done, by a spec: ops one after the other, copies on lanes of their own, begun where they were issued, an item's
// one after the other, and awaited where the computation waits for them. What the time goes to is kept apart, so that a plan can say what binds it.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "device/device.h"
#include "device/ledger.h"

namespace thimble {

class Timeline {
 public:
  explicit Timeline(const DeviceSpec& spec) : spec_(spec) {}
  void add(const Entry&);
  void compute(double seconds) { now_ += seconds, busy_ += seconds; }
  // Of an op: what is added to the roofline, and the roofline, which is the longer of the others.
  struct Cost {
    double fixed, by_flops, by_bytes;
    double seconds() const { return fixed + std::max(by_flops, by_bytes); }
  };
  Cost cost_of(const Entry&) const;
  double seconds_of(const Entry& e) const { return cost_of(e).seconds(); }

  double now() const { return now_; }
  double end() const { return std::max({now_, lanes_[0], lanes_[1], lanes_[2]}); }
  double busy() const { return busy_; }                          // of the compute stream
  double lane(Lane l) const { return on_lane_[size_t(l)]; }      // that copies were under way

 private:
  OpRate rate_of(const DeviceSpec&, const char* name) const;
  const DeviceSpec& spec_;
  double now_ = 0, busy_ = 0, lanes_[lane_count] = {}, on_lane_[lane_count] = {};
  std::vector<std::pair<const char*, std::vector<double>>> arrivals_;  // by ring, then item
  struct Known { const DeviceSpec* of; const char* name; OpRate rate; };
  mutable std::vector<Known> rates_;                                   // by the literal's address
};

}  // namespace thimble
