// Four functions of libnvidia-ml, as its manual declares them; each returns 0 where it succeeds.
#include "device/card_memory.h"

#include <dlfcn.h>

namespace thimble {

CardMemory::CardMemory(const std::string& address) {
  if (address.empty()) return;
  library_ = ::dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library_) return;
  const auto find = [&]<class F>(F*& function, const char* name) { function = reinterpret_cast<F*>(::dlsym(library_, name)); return function != nullptr; };
  int (*init)() = nullptr, (*shutdown)() = nullptr, (*by_address)(const char*, void**) = nullptr;
  if (!find(init, "nvmlInit_v2") || !find(shutdown, "nvmlShutdown") || !find(by_address, "nvmlDeviceGetHandleByPciBusId_v2") ||
      !find(memory_info_, "nvmlDeviceGetMemoryInfo") || init() != 0)
    return;
  shutdown_ = shutdown;
  if (by_address(address.c_str(), &card_) != 0) card_ = nullptr;
}

CardMemory::~CardMemory() {
  if (shutdown_) shutdown_();
  if (library_) ::dlclose(library_);
}

std::optional<int64_t> CardMemory::free_bytes() const {
  Bytes bytes{};
  if (!card_ || memory_info_(card_, &bytes) != 0) return std::nullopt;
  return int64_t(bytes.free);
}

}  // namespace thimble
