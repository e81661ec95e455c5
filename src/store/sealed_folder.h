// A folder that is whole or not there: written aside as NAME.partial, each file flushed, a manifest of sizes and hashes last, then renamed. A kill
// or a power cut leaves a .partial folder, which nobody reads; damage of later days shows against the manifest.
#pragma once
#include <optional>
#include <vector>

#include "base/file.h"

namespace thimble::store {

struct Manifest {
  int64_t serial = 0;  // of folders beside each other the last one sealed has the largest
  std::vector<WrittenFile> files;
};

class SealedFolder {
 public:
  explicit SealedFolder(const fs::path&);  // nothing stands there yet; an earlier .partial is removed
  ~SealedFolder();                         // what was not sealed is removed
  SealedFolder(const SealedFolder&) = delete;
  SealedFolder& operator=(const SealedFolder&) = delete;

  const fs::path& inside() const { return aside_; }  // where its files are written
  void add(WrittenFile);                             // written there, to stand in the manifest
  void add(const std::vector<WrittenFile>&);
  // Takes the place of a folder of its name that is there. Throws Error where the disk refuses; that folder then stays.
  void seal(int64_t serial);

 private:
  fs::path path_, aside_;
  Manifest manifest_;
  bool sealed_ = false;
};

inline constexpr const char* manifest_name = "manifest.json";
inline constexpr const char* partial_ending = ".partial";

// Nothing where there is none, or none that can be read.
std::optional<Manifest> read_manifest(const fs::path& folder);
// What differs from the manifest, in words; empty where every file is as it was written. Reads all of them.
std::string damage_of(const fs::path& folder);
// Removes a sealed folder so that a kill on the way leaves a .partial one and no half of it under its name.
void remove_sealed(const fs::path& folder);

}  // namespace thimble::store
