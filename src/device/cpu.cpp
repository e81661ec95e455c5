// The cpu device: tiers are anonymous mappings, touched when reserved so that no page fault comes later; each copy lane is a thread.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fstream>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "device/cuda.h"

namespace thimble {
namespace {

constexpr int64_t small_page = 4096, large_page = int64_t{2} << 20;

// What the kernel would give without killing anybody: a page that is touched but not there ends the process, not the call.
int64_t free_memory() {
  int64_t least = INT64_MAX;
  std::ifstream info("/proc/meminfo");
  for (std::string key; info >> key;) {
    if (int64_t kib = 0; key == "MemAvailable:" && info >> kib) least = kib * 1024;
    info.ignore(1 << 10, '\n');
  }
  for (const char* limit : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"})
    if (int64_t n = 0; std::ifstream(limit) >> n) least = std::min(least, n);  // "max" reads as nothing
  return least;
}

// Gives every page its memory, in large pages where the kernel has them: fewer to fault in now, fewer to look up in each step.
void touch(std::byte* data, int64_t bytes) {
  ::madvise(data, size_t(bytes), MADV_HUGEPAGE);  // advice only: failure costs nothing
  parallel_for((bytes + large_page - 1) / large_page, 16, [&](int64_t begin, int64_t end) {
    std::byte* from = data + begin * large_page;
    const int64_t n = std::min(bytes, end * large_page) - begin * large_page;
#ifdef MADV_POPULATE_WRITE
    if (::madvise(from, size_t(n), MADV_POPULATE_WRITE) == 0) return;  // since Linux 5.14
#endif
    for (int64_t i = 0; i < n; i += small_page) *static_cast<volatile std::byte*>(from + i) = std::byte{0};
  });
}

Storage map_memory(Tier tier, int64_t bytes) {
  if (bytes == 0) return {};
  if (const int64_t room = free_memory(); tier != Tier::disk && bytes > room)
    throw Error(Fault::does_not_fit, {.what = fmt::format("the machine has not the memory that the {} tier is to have", name_of(tier)), .expected = human_bytes(bytes),
                                      .found = human_bytes(room) + " free", .fix = "close other programs or name a smaller budget"});
  int fd = -1;
  if (tier == Tier::disk) {
    char path[] = "/var/tmp/thimble-XXXXXX";
    fd = ::mkstemp(path);
    if (fd < 0 || ::unlink(path) != 0 || ::posix_fallocate(fd, 0, bytes) != 0) {
      if (fd >= 0) ::close(fd);
      throw Error(Fault::does_not_fit, {.what = "cannot reserve the planned bytes on disk", .where = "/var/tmp", .expected = human_bytes(bytes) + " free"});
    }
  }
  const int flags = tier == Tier::disk ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* p = ::mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, flags, fd, 0);
  if (fd >= 0) ::close(fd);
  if (p == MAP_FAILED)
    throw Error(Fault::does_not_fit, {.what = fmt::format("cannot reserve the planned bytes of the {} tier", name_of(tier)),
                                      .expected = human_bytes(bytes) + " of free memory", .found = std::strerror(errno),
                                      .fix = "close other programs or name a smaller budget"});
  Storage storage(p, bytes, [](void* data, int64_t n) { ::munmap(data, size_t(n)); });
  if (tier != Tier::disk) touch(static_cast<std::byte*>(p), bytes);
  return storage;
}

// Copies in order, beside the computation. The compute side runs in the calling thread, so its own moments have always passed.
class CopyThread {
 public:
  CopyThread() : thread_([this] { work(); }) {}
  ~CopyThread() {
    { const std::lock_guard lock(mutex_); stopping_ = true; }
    changed_.notify_all();
    thread_.join();
  }
  // `before`, if any, is a lane whose ticket `after` must have passed when the copy starts.
  Ticket enqueue(void* to, const void* from, int64_t bytes, CopyThread* before, Ticket after) {
    { const std::lock_guard lock(mutex_); queue_.push_back({to, from, bytes, before, after}); }
    changed_.notify_all();
    return ++issued_;
  }
  void wait(Ticket t) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ >= t; });
  }
  void wait_for_all() { wait(issued_); }

 private:
  struct Job { void* to; const void* from; int64_t bytes; CopyThread* before; Ticket after; };
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      const Job job = queue_.front();
      queue_.pop_front();
      lock.unlock();
      if (job.before) job.before->wait(job.after);
      std::memcpy(job.to, job.from, size_t(job.bytes));
      lock.lock();
      ++done_;
      changed_.notify_all();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> queue_;
  Ticket issued_ = 0, done_ = 0;
  bool stopping_ = false;
  std::thread thread_;  // last: it starts when all else is there
};

constexpr int64_t small_copy = int64_t{64} << 10;

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(DeviceSpec spec) : Device(std::move(spec), false) {}
  ~CpuDevice() override {
    for (CopyThread& lane : lanes_) lane.wait_for_all();  // before any lane ends, since one may wait for the other
  }
  Storage reserve(Tier tier, int64_t bytes) override { return map_memory(tier, bytes); }
  Ticket copy(Lane lane, void* to, const void* from, int64_t bytes, Ticket after) override {
    if (bytes <= small_copy) {  // sooner done than handed to a thread
      wait(after);
      std::memcpy(to, from, size_t(bytes));
      return 0;
    }
    CopyThread& other = lanes_[after % 2];
    CopyThread* before = &other == &lanes_[size_t(lane)] ? nullptr : &other;  // a lane keeps its own order
    return lanes_[size_t(lane)].enqueue(to, from, bytes, before, after / 2) * 2 + Ticket(lane);
  }
  Ticket now() override { return 0; }
  void wait(Ticket t) override { lanes_[size_t(t % 2)].wait(t / 2); }

 private:
  CopyThread lanes_[2];  // by Lane; a ticket is 2 * count + lane. Copies out never wait for copies in, so no two wait for each other
};

class PhantomDevice final : public Device {
 public:
  explicit PhantomDevice(DeviceSpec spec) : Device(std::move(spec), true) {}
  Storage reserve(Tier, int64_t bytes) override {
    if (bytes == 0) return {};
    void* p = ::mmap(nullptr, size_t(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check(p != MAP_FAILED, "a phantom's address space can be reserved");
    return Storage(p, bytes, [](void* data, int64_t n) { ::munmap(data, size_t(n)); });
  }
  Ticket copy(Lane, void*, const void*, int64_t, Ticket) override { return 0; }
  Ticket now() override { return 0; }
  void wait(Ticket) override {}
};

}  // namespace

std::unique_ptr<Device> cpu_device(DeviceSpec spec) { return std::make_unique<CpuDevice>(std::move(spec)); }
std::unique_ptr<Device> open_device(const DeviceSpec& spec) {
  if (spec.kind == DeviceKind::cpu) return cpu_device(spec);
#ifdef THIMBLE_CUDA
  return cuda_device(spec);
#else
  throw Error(Fault::usage, {.what = "this program was built without CUDA", .fix = "build the `cuda` preset, or use the cpu device"});
#endif
}
std::unique_ptr<Device> phantom_device(DeviceSpec spec) { return std::make_unique<PhantomDevice>(std::move(spec)); }

std::string cpu_instructions() {
  __builtin_cpu_init();
  unsigned a, b, c, d;
  asm volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  const bool amx = (d >> 22) & (d >> 24) & 1;
  asm volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
  const bool avx512_bf16 = (a >> 5) & 1;
  if (amx) return "AMX bf16";
  if (avx512_bf16) return "AVX512 bf16";
  if (__builtin_cpu_supports("avx512f")) return "AVX-512";
  return __builtin_cpu_supports("avx2") ? "AVX2" : "no AVX2";
}

DeviceSpec this_cpu() {
  DeviceSpec spec;
  const std::string has = cpu_instructions();
  const bool matrix_bf16 = has == "AMX bf16" || has == "AVX512 bf16";
  spec.name = "cpu (" + has + ")";
  spec.compute = matrix_bf16 ? DType::bf16 : DType::f32;
  spec.flops = has == "AMX bf16" ? 2e12 : has == "AVX512 bf16" ? 5e11 : has == "AVX-512" ? 1.5e11 : 7e10;
  spec.vector_flops = spec.flops / 4;
  return spec;
}

}  // namespace thimble
