// The table that a person reads: op, calls, time, share of all time, rate.
#include "device/profile.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

namespace thimble {

void Profile::add(const Work& w, double seconds) {
  auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& r) { return r.name == w.name || std::strcmp(r.name, w.name) == 0; });
  if (row == rows_.end()) row = rows_.insert(rows_.end(), Row{w.name});
  row->seconds += seconds;
  row->flops += w.flops;
  row->bytes += w.bytes;
  ++row->calls;
}

std::vector<Profile::Row> Profile::rows() const {
  auto sorted = rows_;
  std::sort(sorted.begin(), sorted.end(), [](const Row& a, const Row& b) { return a.seconds > b.seconds; });
  return sorted;
}

std::string table(const Profile& profile, const DeviceSpec& spec) {
  double total = 0;
  for (const auto& r : profile.rows()) total += r.seconds;
  std::string text = fmt::format("{:<26} {:>8} {:>10} {:>6} {:>10} {:>9} {:>7}\n", "op", "calls", "ms", "%", "GFLOP/s", "GB/s", "% peak");
  for (const auto& r : profile.rows())
    text += fmt::format("{:<26} {:>8} {:>10.2f} {:>6.1f} {:>10.1f} {:>9.2f} {:>7.1f}\n", r.name, r.calls, r.seconds * 1e3, 100 * r.seconds / total,
                        r.flops / r.seconds / 1e9, r.bytes / r.seconds / 1e9, 100 * r.flops / r.seconds / spec.flops);
  return text + fmt::format("{:<26} {:>8} {:>10.2f}\n", "all", "", total * 1e3);
}

}  // namespace thimble
