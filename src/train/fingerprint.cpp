// Pieces of a file of weights: its beginning, where the names and shapes stand, and 64 more at even distances.
#include "train/fingerprint.h"

#include <algorithm>
#include <vector>

namespace thimble::train {

std::string fingerprint(const data::Examples& examples) { return Xxh64::text(examples.hash()); }

std::string fingerprint_of_model(const fs::path& folder) {
  constexpr int64_t piece = 4096, pieces = 64, head = int64_t{1} << 20;
  Xxh64 hash;
  const std::string config = read_text(folder / "config.json", int64_t{16} << 20);
  hash.add(config.data(), int64_t(config.size()));
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& path : files) {
    const MappedFile file(path);
    const auto bytes = file.bytes();
    const auto size = int64_t(bytes.size());
    hash.add(&size, sizeof size);
    hash.add(bytes.data(), std::min(size, head));
    for (int64_t i = 0; i < pieces && size > head; ++i) hash.add(bytes.data() + (size - piece) / pieces * i, piece);
  }
  return Xxh64::text(hash.value());
}

}  // namespace thimble::train
