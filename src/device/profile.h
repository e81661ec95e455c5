// Every op of a step with its time: what `bench` and `profile` show, by op, by layer, one after the other. Costs nothing where no profile is set.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "device/ledger.h"

namespace thimble {

class Profile {
 public:
  struct Event { const char* name; int layer; bool matrix; double start, seconds, flops, bytes; Tier where; };  // start: since the profile began; where: see Entry
  struct Row { std::string name; double seconds = 0, flops = 0, bytes = 0, predicted = 0; int64_t calls = 0; };
  Profile() : begin_(Clock::now()) {}
  void add(const Work&, int layer, Tier where, double start, double seconds);
  const std::vector<Event>& events() const { return events_; }
  // Most time first; `predicted` is the spec's.
  std::vector<Row> by_op(const DeviceSpec&) const;
  std::vector<Row> by_layer(const DeviceSpec&) const;  // in order; "outside the layers" first
  void clear() { events_.clear(), begin_ = Clock::now(); }

  class Timer {
   public:
    Timer(Profile* profile, const Work& work, int layer, Tier where) : profile_(profile), work_(work), layer_(layer), where_(where) { if (profile_) start_ = profile_->now(); }
    ~Timer() { if (profile_) profile_->add(work_, layer_, where_, start_, profile_->now() - start_); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    Profile* profile_;
    const Work& work_;
    int layer_;
    Tier where_;
    double start_ = 0;
  };

 private:
  using Clock = std::chrono::steady_clock;
  double now() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }
  std::vector<Event> events_;
  Clock::time_point begin_;
};

std::string table(const std::vector<Profile::Row>&, const DeviceSpec&);
// For chrome://tracing and Perfetto: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
std::string chrome_trace(const Profile&);

}  // namespace thimble
