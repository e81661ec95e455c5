// The one seam between the engine and a device: everything that computes goes through launch().
#pragma once
#include <chrono>

#include "device/arena.h"
#include "device/profile.h"

namespace thimble {

#ifdef THIMBLE_CUDA
constexpr bool has_cuda = true;
#else
constexpr bool has_cuda = false;
#endif

class DeviceRange {
 public:
  DeviceRange(Device* device, const char* name) : device_(device) { if (device_) device_->begin_range(name); }
  ~DeviceRange() { if (device_) device_->end_range(); }
  DeviceRange(const DeviceRange&) = delete;
  DeviceRange& operator=(const DeviceRange&) = delete;

 private:
  Device* device_;
};

struct Stream {
  Device& device;
  Ledger& ledger;
  Arena& arena;                // scratch of ops: taken before launch(), by the device's spec, inside a Scope
  Profile* profile = nullptr;  // where set, each op is timed
  Arena* pinned = nullptr;     // scratch of what the processor beside a GPU computes

  Tensor scratch(const char* name, DType dtype, Shape shape) const { return arena.take(Use::scratch, name, dtype, shape); }
  // Launches there run on the processor, in pinned memory, once the host has waited for what they read; they are done when launch() returns.
  Stream of_processor() const { return {device.processor(), ledger, *pinned, profile, pinned}; }
};

// Records the work, then runs the half that the device asks for. `on_cuda` is a generic lambda, [&](auto& cuda) { x_cuda(cuda, ...); },
// which a build without CUDA never instantiates.
template <class Cpu, class Cuda>
void launch(Stream& s, Work work, Cpu&& on_cpu, Cuda&& on_cuda) {
  s.ledger.ran(work, s.arena.tier());
  if (s.device.is_phantom()) return;  // shapes were checked, bytes taken, nothing runs
  if (s.profile) s.device.synchronize();
  const Profile::Timer timer(s.profile, work, s.ledger.layer(), s.arena.tier());
  const DeviceRange range(s.profile ? &s.device : nullptr, work.name);
  if (s.device.kind() == DeviceKind::cpu) return on_cpu();
  if constexpr (has_cuda) on_cuda(*s.device.native());
  else throw Error(Fault::usage, {.what = "this program was built without CUDA", .fix = "build the `cuda` preset, or use the cpu device"});
  if (s.profile) s.device.synchronize();
}

// The CUDA half of an op that has none yet: a clear refusal, in one place.
struct NoCudaYet {
  template <class C>
  void operator()(C&) const { throw Error(Fault::usage, {.what = "an op has no CUDA half yet", .fix = "use the cpu device"}); }
};
inline constexpr NoCudaYet no_cuda_yet;

}  // namespace thimble
