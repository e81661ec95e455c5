// model.safetensors.index.json beside one true shard: whatever it says, only files of the folder are opened.
#include <unistd.h>

#include <fstream>

#include "store/safetensors.h"
#include "store/weight_source.h"
#include "target.h"

namespace {

using namespace thimble;

// A folder with the shard that the seeds name: tensor "a", F32 (2, 3).
struct Folder {
  const fs::path path = fs::temp_directory_path() / ("thimble-fuzz-index-" + std::to_string(::getpid()));
  Folder() {
    fs::create_directories(path);
    store::SafetensorsWriter writer(path / "model-00001-of-00001.safetensors", {{"a", DType::f32, {2, 3}}});
    float numbers[6] = {};
    writer.write({numbers, DType::f32, {2, 3}});
    writer.commit();
  }
  ~Folder() { fs::remove_all(path); }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  std::ofstream(folder.path / "model.safetensors.index.json", std::ios::binary) << fuzz::text(data, size);
  return fuzz::take_or_refuse([&] {
    const auto source = store::open_weights(folder.path);
    float numbers[6];
    if (source->has("a")) source->read("a", 0, {numbers, DType::f32, {2, 3}});
  });
}
