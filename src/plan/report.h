// A plan told: the table that a person reads in ten seconds, the reasons behind it, the same for programs (docs/plan.schema.json), and as a page.
#pragma once
#include "base/json.h"
#include "plan/analysis.h"

namespace thimble::plan {

// The table of bytes, the decisions, the predicted speed.
std::string report(const Candidate&, const Budget&, const DeviceSpec&, int64_t process_bytes);

// All that is told of a plan. The choice has a best.
struct Story {
  const Choice& choice;
  const Budget& budget;  // of arenas: overhead and process_bytes are off
  const DeviceSpec& spec;
  int64_t process_bytes = 0;
  std::string model;
  int64_t rows = 0;      // of the data, 0: not known
  Analysis analysis;     // of the best plan's step
};
std::string bars(const Story&);     // a line a tier
std::string reasons(const Story&);  // what binds, what the next plan with less memory would cost, what hides the streaming
std::string explain(const std::vector<Rung>&, const Story&);  // the ladder, level by level
Json to_json(const Story&);
std::string to_html(const Story&);  // one file that needs no other

}  // namespace thimble::plan
