// A place that holds bytes and runs work: cpu or cuda, each real or phantom. A phantom reserves address space that nobody
// may touch and copies nothing. Copies run on their own lanes, beside the computation, and are ordered by tickets.
#pragma once
#include <functional>
#include <memory>

#include "device/spec.h"

namespace thimble {

class CudaContext;  // handles of the cuda device, seen only by .cu files

// Bytes of one tier, reserved once. Moves; frees at the end of its life.
class Storage {
 public:
  using Free = std::function<void(void* data, int64_t bytes)>;
  Storage() = default;
  Storage(void* data, int64_t bytes, Free free) : data_(data), bytes_(bytes), free_(std::move(free)) {}
  Storage(Storage&& o) noexcept { *this = std::move(o); }
  Storage& operator=(Storage&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    std::swap(free_, o.free_);
    return *this;
  }
  ~Storage() { if (data_) free_(data_, bytes_); }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Free free_;
};

// Host to device, device to host: two lanes, since a link carries both at once. Between pinned memory and disk, either way.
enum class Lane : uint8_t { in, out, disk };
constexpr int lane_count = 3;
using Ticket = int64_t;                 // a moment on a lane or on the compute stream; 0 is the past

class Device {
 public:
  virtual ~Device() = default;
  const DeviceSpec& spec() const { return spec_; }
  DeviceKind kind() const { return spec_.kind; }
  bool is_phantom() const { return phantom_; }

  // Throws Error (does_not_fit) when the machine does not have the bytes. Tier::disk is a file in the spec's folder that has no name and goes with the
  // storage; its bytes have addresses, which nobody may touch: they are copied on their own lane.
  virtual Storage reserve(Tier, int64_t bytes) = 0;
  // A copy between tiers that starts once both moments have passed and the copies that its lane was given before have ended; returns when it ends. Both ranges stay untouched until then. Where the disk fails, a wait
  // that comes after throws its Error (bad_input), and all that follow.
  virtual Ticket copy(Lane, void* to, const void* from, int64_t bytes, Ticket after, Ticket also = 0) = 0;
  virtual Ticket now() = 0;         // all that was launched so far on the compute stream
  virtual void wait(Ticket) = 0;    // what is launched next on the compute stream comes after the ticket
  virtual void host_wait(Ticket t) { wait(t); }  // the host goes on after the ticket: it may then touch what a copy read or wrote
  virtual void synchronize() {}     // the host waits for the compute stream, before it reads what was computed
  // What runs between the two bears a name in the tools of the device's maker (NVTX).
  virtual void begin_range(const char*) {}
  virtual void end_range() {}
  virtual CudaContext* native() { return nullptr; }
  // What computes where pinned memory is: the processor beside a GPU, else the device itself. Its work is done when it returns.
  virtual Device& processor() { return *this; }

 protected:
  Device(DeviceSpec spec, bool phantom) : spec_(std::move(spec)), phantom_(phantom) {}

 private:
  DeviceSpec spec_;
  bool phantom_;
};

// Measures nothing: reads which matrix instructions the processor has (cpuid) and takes rates from `bench` when it ran.
DeviceSpec this_cpu();
// Which matrix instructions this processor has, for `doctor`: "AMX bf16", "AVX512 bf16", "AVX-512", "AVX2".
std::string cpu_instructions();

std::unique_ptr<Device> cpu_device(DeviceSpec = this_cpu());
// The device that a spec is of: a cpu or a GPU of this machine. Throws Error (usage) where there is none such.
std::unique_ptr<Device> open_device(const DeviceSpec&);
std::unique_ptr<Device> phantom_device(DeviceSpec);

}  // namespace thimble
