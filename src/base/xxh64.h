// XXH64 (github.com/Cyan4973/xxHash, its specification): a hash at the speed of memory, against accidents and not against people. `xxhsum -H1`
// prints the same.
#pragma once
#include <array>
#include <cstdint>
#include <string>

namespace thimble {

class Xxh64 {
 public:
  void add(const void* data, int64_t bytes);
  uint64_t value() const;                                      // of all that was added
  static std::string text(uint64_t value);                     // 16 hexadecimal digits

 private:
  void stripe(const unsigned char* p);
  std::array<uint64_t, 4> lanes_{0x60EA27EEADC0B5D6ull, 0xC2B2AE3D27D4EB4Full, 0, 0x61C8864E7A143579ull};  // of seed 0
  std::array<unsigned char, 32> waiting_{};                    // less than a stripe
  uint64_t total_ = 0;
};

}  // namespace thimble
