// Seconds, flops and bytes by op name: what `bench` and `profile` show. Costs nothing where no profile is set.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "device/ledger.h"

namespace thimble {

class Profile {
 public:
  struct Row { const char* name; double seconds = 0, flops = 0, bytes = 0; int64_t calls = 0; };
  void add(const Work&, double seconds);
  std::vector<Row> rows() const;  // most time first
  void clear() { rows_.clear(); }

  class Timer {
   public:
    Timer(Profile* profile, const Work& work) : profile_(profile), work_(work) { if (profile_) start_ = std::chrono::steady_clock::now(); }
    ~Timer() { if (profile_) profile_->add(work_, std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count()); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

   private:
    Profile* profile_;
    const Work& work_;
    std::chrono::steady_clock::time_point start_;
  };

 private:
  std::vector<Row> rows_;
};

std::string table(const Profile&, const DeviceSpec&);

}  // namespace thimble
