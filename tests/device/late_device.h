// A device whose compute stream and copy lanes lag behind the host, each in its own order and as far apart as their tickets allow.
// Which one goes on next is drawn at random, so a ring that forgets to wait reads wrong numbers here sooner or later.
#pragma once
#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/philox.h"
#include "device/device.h"

namespace thimble {

class LateDevice final : public Device {
 public:
  explicit LateDevice(uint64_t seed) : Device({}, false), draws_{.seed = seed} {}

  Storage reserve(Tier, int64_t bytes) override {
    return Storage(new std::byte[size_t(bytes)](), bytes, [](void* p, int64_t) { delete[] static_cast<std::byte*>(p); });
  }
  Ticket copy(Lane lane, void* to, const void* from, int64_t bytes, Ticket after, Ticket also) override {
    return put(queues_[size_t(lane)], int(lane), {after, also, [=] { std::memcpy(to, from, size_t(bytes)); }});
  }
  Ticket now() override { return Ticket(queues_[compute].jobs.size()) * lanes + compute; }
  void wait(Ticket t) override { put(queues_[compute], compute, {t, 0, [] {}}); }
  void synchronize() override {
    while (queues_[compute].done < queues_[compute].jobs.size()) check(go_on(), "no two queues wait for each other");
  }

  void run(std::function<void()> work) { put(queues_[compute], compute, {0, 0, std::move(work)}); }

 private:
  struct Job { Ticket after, also; std::function<void()> work; };
  struct Queue { std::vector<Job> jobs; size_t done = 0; };
  static constexpr int compute = lane_count, lanes = lane_count + 1;  // a ticket is jobs so far * lanes + queue

  Ticket put(Queue& q, int index, Job job) {
    q.jobs.push_back(std::move(job));
    const auto ticket = Ticket(q.jobs.size()) * lanes + index;
    for (uint64_t n = draws_.below(3); n > 0; --n) go_on();  // the device works while the host goes on, as much as it likes
    return ticket;
  }
  bool passed(Ticket t) const { return queues_[size_t(t % lanes)].done >= size_t(t / lanes); }
  bool go_on() {
    const uint64_t first = draws_.below(lanes);
    for (uint64_t k = 0; k < lanes; ++k) {
      Queue& q = queues_[(first + k) % lanes];
      if (q.done == q.jobs.size()) continue;
      const Job& job = q.jobs[q.done];
      if (!passed(job.after) || !passed(job.also)) continue;
      job.work();
      ++q.done;
      return true;
    }
    return false;
  }

  Queue queues_[lanes];
  Draws draws_;
};

}  // namespace thimble
