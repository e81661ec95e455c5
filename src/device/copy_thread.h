// Copies in order, in a thread of their own, beside the computation.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "device/device.h"

namespace thimble {

class CopyThread {
 public:
  CopyThread() : thread_([this] { work(); }) {}
  ~CopyThread();
  Ticket enqueue(std::function<void()> copy);  // how many were enqueued by now
  void wait(Ticket);                           // until so many have ended, well or not
  void wait_for_all() { wait(issued_); }
  void throw_if_failed();                      // throws what the first that failed threw; after it none is run

 private:
  void work();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  Ticket issued_ = 0, done_ = 0;
  std::exception_ptr failed_;
  bool stopping_ = false;
  std::thread thread_;  // last: it starts when all else is there
};

}  // namespace thimble
