// The header of a safetensors file: a file that opens holds every tensor inside its bytes, and each can be read.
#include <unistd.h>

#include <fstream>

#include "store/safetensors.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thimble;
  static const fs::path path = fs::temp_directory_path() / ("thimble-fuzz-safetensors-" + std::to_string(::getpid()));
  static const struct Gone {
    ~Gone() { fs::remove(path); }
  } gone;
  std::ofstream(path, std::ios::binary) << fuzz::text(data, size);
  return fuzz::take_or_refuse([&] {
    const store::SafetensorsFile file(path);
    std::string bytes;
    for (const auto& t : file.tensors()) {
      bytes.resize(size_t(t.bytes()));
      file.read_bytes(t, 0, t.bytes(), bytes.data());
    }
  });
}
