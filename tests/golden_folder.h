// Where the goldens lie: tests/golden of the sources, or the folder that THIMBLE_GOLDEN names on a machine without them (tools/gpu_run.sh).
#pragma once
#include <cstdlib>
#include <filesystem>

namespace thimble {

inline std::filesystem::path golden_folder() {
  const char* named = std::getenv("THIMBLE_GOLDEN");
  return named ? named : THIMBLE_SOURCE_DIR "/tests/golden";
}

}  // namespace thimble
