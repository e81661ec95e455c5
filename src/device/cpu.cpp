// The cpu device: tiers are anonymous mappings, touched when reserved so that no page fault comes later; each copy lane is a thread.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/threads.h"
#include "device/copy_thread.h"
#include "device/cuda.h"
#include "device/disk.h"

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
  if (const int64_t room = free_memory(); bytes > room)
    throw Error(Fault::does_not_fit, {.what = fmt::format("the machine has not the memory that the {} tier is to have", name_of(tier)), .expected = human_bytes(bytes),
                                      .found = human_bytes(room) + " free", .fix = "close other programs or name a smaller budget"});
  void* p = ::mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    throw Error(Fault::does_not_fit, {.what = fmt::format("cannot reserve the planned bytes of the {} tier", name_of(tier)),
                                      .expected = human_bytes(bytes) + " of free memory", .found = std::strerror(errno),
                                      .fix = "close other programs or name a smaller budget"});
  Storage storage(p, bytes, [](void* data, int64_t n) { ::munmap(data, size_t(n)); });
  touch(static_cast<std::byte*>(p), bytes);
  return storage;
}

constexpr int64_t small_copy = int64_t{64} << 10;

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(DeviceSpec spec) : Device(std::move(spec), false) {}
  ~CpuDevice() override {
    for (CopyThread& lane : lanes_) lane.wait_for_all();  // before any lane ends, since one may wait for another
    disk_.wait_for_all();
  }
  Storage reserve(Tier tier, int64_t bytes) override { return tier == Tier::disk && bytes > 0 ? disk_.reserve(spec().disk, bytes) : map_memory(tier, bytes); }
  Ticket copy(Lane lane, void* to, const void* from, int64_t bytes, Ticket after, Ticket also) override {
    if (lane == Lane::disk) return ticket(lane, disk_.copy(to, from, bytes, [=, this] { pass(after), pass(also); }));
    if (bytes <= small_copy) {  // sooner done than handed to a thread; behind what its lane was given before
      wait(after), wait(also);
      lanes_[size_t(lane)].wait_for_all();
      std::memcpy(to, from, size_t(bytes));
      return 0;
    }
    return ticket(lane, lanes_[size_t(lane)].enqueue([=, this] {
      pass(after), pass(also);
      std::memcpy(to, from, size_t(bytes));
    }));
  }
  Ticket now() override { return 0; }
  void wait(Ticket t) override {
    pass(t);
    disk_.throw_if_failed();
  }

 private:
  // The compute side runs in the calling thread, so its own moments have always passed. No two lanes wait for each other: each copy waits for such as
  // were issued before it.
  static Ticket ticket(Lane lane, Ticket count) { return count * lane_count + Ticket(lane); }
  static size_t lane_of(Ticket t) { return size_t(t % lane_count); }
  void pass(Ticket t) {
    if (lane_of(t) == size_t(Lane::disk)) disk_.wait(t / lane_count);
    else lanes_[lane_of(t)].wait(t / lane_count);
  }
  Disk disk_;
  CopyThread lanes_[2];  // in, out
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
  Ticket copy(Lane, void*, const void*, int64_t, Ticket, Ticket) override { return 0; }
  Ticket now() override { return 0; }
  void wait(Ticket) override {}
  Device& processor() override {
    if (kind() == DeviceKind::cpu) return *this;
    if (!processor_) processor_ = phantom_device(spec().processor ? *spec().processor : DeviceSpec{});
    return *processor_;
  }

 private:
  std::unique_ptr<Device> processor_;
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
  spec.sums_int8 = __builtin_cpu_supports("avx512vnni");
  spec.flops = has == "AMX bf16" ? 2e12 : has == "AVX512 bf16" ? 5e11 : has == "AVX-512" ? 1.5e11 : 7e10;
  spec.vector_flops = spec.flops / 4;
  return spec;
}

}  // namespace thimble
