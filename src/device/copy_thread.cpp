// A copy that fails is remembered, not thrown where nobody waits; whoever waits next hears of it.
#include "device/copy_thread.h"

#include <utility>

namespace thimble {

CopyThread::~CopyThread() {
  { const std::lock_guard lock(mutex_); stopping_ = true; }
  changed_.notify_all();
  thread_.join();
}

Ticket CopyThread::enqueue(std::function<void()> copy) {
  { const std::lock_guard lock(mutex_); queue_.push_back(std::move(copy)); }
  changed_.notify_all();
  return ++issued_;
}

void CopyThread::wait(Ticket t) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return done_ >= t; });
}

void CopyThread::throw_if_failed() {
  const std::lock_guard lock(mutex_);
  if (failed_) std::rethrow_exception(failed_);
}

void CopyThread::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    auto copy = std::move(queue_.front());
    queue_.pop_front();
    if (!failed_) {
      lock.unlock();
      std::exception_ptr thrown;
      try {
        copy();
      } catch (...) {
        thrown = std::current_exception();
      }
      copy = nullptr;  // what it holds goes here, not behind the lock
      lock.lock();
      failed_ = thrown;
    }
    ++done_;
    changed_.notify_all();
  }
}

}  // namespace thimble
