// The cuda device as the rest of the program sees it: made here, spoken to through Device. Includes no CUDA header.
#pragma once
#include "device/device.h"

namespace thimble {

// What GPU `index` is. Throws Error (usage) that says which of these it is: no GPU, no driver, a driver too old for this build.
DeviceSpec this_cuda(int index = 0);
// The same with `free` and `overhead` as measured: what the card had before this process's context, and what the context and the libraries' handles
// took. Only the first call of a process sees them come. Where NVML does not answer, this_cuda's.
DeviceSpec measured_cuda(int index = 0);
int cuda_count();                         // GPUs that answer; 0 where there is no driver
int64_t cuda_free_bytes(int index = 0);   // of the card, as it is now

// For tests: the device tier lies in registered host memory, where both sides see it.
enum class DeviceMemory : uint8_t { on_card, host_visible };
std::unique_ptr<Device> cuda_device(DeviceSpec, DeviceMemory = DeviceMemory::on_card);

}  // namespace thimble
