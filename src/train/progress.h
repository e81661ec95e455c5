// How a run looks while it runs: one line that renews itself on a terminal, plain lines every so often elsewhere.
#pragma once
#include <chrono>
#include <span>
#include <string>

#include "device/spec.h"
#include "train/trainer_log.h"

namespace thimble::train {

struct TierUse {
  Tier tier = Tier::device;
  int64_t now = 0, plan = 0;  // bytes
};

// The line of a terminal that is `width` columns wide: what does not fit is left out, the least wanted first.
std::string progress_line(const StepReport&, std::span<const TierUse>, int width);
// The line of a log file: everything.
std::string plain_line(const StepReport&, std::span<const TierUse>);

class Progress {
 public:
  struct How {
    int fd = 2;
    int64_t logging_steps = 1;
    bool first_step = true;
  };
  explicit Progress(How);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // After each step. On a terminal the line is renewed, at most twenty times a second; elsewhere a line appears after the first step where
  // wanted, every logging_steps, and after the last.
  void show(const StepReport&, std::span<const TierUse>);
  void clear();   // takes the line away, before something else is printed
  void finish();  // leaves the last line standing

 private:
  void write(std::string_view);
  How how_;
  bool terminal_;
  bool standing_ = false;  // a line is on the terminal, unfinished
  std::chrono::steady_clock::time_point drawn_{};
};

}  // namespace thimble::train
