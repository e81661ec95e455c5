// What a plan's step does, read from the ledger of its dry run: where the time goes and what waits for what, how full each tier is from op to op,
// and what is alive when it is fullest.
#pragma once
#include "plan/plan.h"

namespace thimble::plan {

// Seconds of the compute stream by what holds it back, and its waits for copies.
struct TimeShares {
  double matrix = 0, memory = 0, vector = 0, fixed = 0;  // by the peak of matrix products, bytes, other arithmetic, and what an op takes however small
  double waiting = 0;
  double copies_in = 0, copies_out = 0, disk = 0;  // on their own lanes
};
struct OpTime { const char* name; double seconds = 0; int64_t calls = 0; };
struct Alive { std::string name; Use use; int64_t bytes = 0, count = 0; };  // tensors of one name
struct Point { double seconds = 0; int64_t bytes = 0; int layer = -1; };

struct Analysis {
  TimeShares time;
  std::vector<OpTime> ops;                                       // most time first
  std::array<std::vector<Point>, tier_count> timeline;           // of the step, after each change; thinned to what a picture shows
  std::array<std::vector<Alive>, tier_count> alive_at_peak;      // largest first
  double at_peak_seconds = 0;                                    // when the device tier is fullest; negative: outside the step
};

// `ledger`: recorded from the trainer's first byte to the end of a step whose entries begin at `step`.
Analysis analyse(const Ledger&, size_t step, const DeviceSpec&);

enum class Bound : uint8_t { compute, memory, link, overhead, disk };
Bound bound_of(const TimeShares&);
const char* name_of(Bound);

}  // namespace thimble::plan
