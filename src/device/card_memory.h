// What the driver says of a card's memory through NVML, which needs no context and so sees what a context takes. The library is looked for
// when the program runs: where there is none nothing is known, and nothing else fails.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace thimble {

class CardMemory {
 public:
  explicit CardMemory(const std::string& address);  // on the PCI bus, as DeviceSpec has it: "0000:1b:00.0"
  ~CardMemory();
  CardMemory(const CardMemory&) = delete;
  CardMemory& operator=(const CardMemory&) = delete;

  std::optional<int64_t> free_bytes() const;  // of the whole card, whoever uses it

 private:
  struct Bytes { unsigned long long total, free, used; };  // nvmlMemory_t
  void* library_ = nullptr;
  void* card_ = nullptr;  // null: NVML does not know it
  int (*memory_info_)(void*, Bytes*) = nullptr;
  int (*shutdown_)() = nullptr;
};

}  // namespace thimble
