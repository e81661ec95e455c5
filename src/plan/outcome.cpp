// What is read from a dry run's ledger.
#include "device/timeline.h"
#include "plan/plan.h"

namespace thimble::plan {

void Outcome::set_bytes(const Ledger& ledger, const DeviceSpec& spec) {
  for (const Tier t : {Tier::device, Tier::pinned, Tier::host, Tier::disk}) {
    peak[size_t(t)] = ledger.peak(t);
    at_peak[size_t(t)] = ledger.at_peak(t);
  }
  page_tables = thimble::page_tables(spec, ledger.peak(Tier::pinned));
}

double predicted_seconds(std::span<const Entry> entries, const DeviceSpec& spec) {
  Timeline timeline(spec);
  for (const Entry& e : entries) timeline.add(e);
  return timeline.end();
}

}  // namespace thimble::plan
