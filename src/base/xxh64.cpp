// Four lanes over stripes of 32 bytes, merged, then the tail, then an avalanche: the steps of the specification in its order.
#include "base/xxh64.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace thimble {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as the specification has them");
constexpr uint64_t p1 = 0x9E3779B185EBCA87ull, p2 = 0xC2B2AE3D27D4EB4Full, p3 = 0x165667B19E3779F9ull, p4 = 0x85EBCA77C2B2AE63ull,
                   p5 = 0x27D4EB2F165667C5ull;

template <class T>
T word(const unsigned char* p) {
  T w;
  std::memcpy(&w, p, sizeof w);
  return w;
}
uint64_t round(uint64_t lane, uint64_t input) { return std::rotl(lane + input * p2, 31) * p1; }

}  // namespace

void Xxh64::stripe(const unsigned char* p) {
  for (size_t i = 0; i < 4; ++i) lanes_[i] = round(lanes_[i], word<uint64_t>(p + 8 * i));
}

void Xxh64::add(const void* data, int64_t bytes) {
  auto p = static_cast<const unsigned char*>(data);
  auto left = size_t(bytes);
  const size_t waits = total_ % 32;
  total_ += left;
  if (waits) {
    const size_t n = std::min(left, 32 - waits);
    std::memcpy(waiting_.data() + waits, p, n);
    p += n, left -= n;
    if (waits + n < 32) return;
    stripe(waiting_.data());
  }
  for (; left >= 32; p += 32, left -= 32) stripe(p);
  if (left) std::memcpy(waiting_.data(), p, left);
}

uint64_t Xxh64::value() const {
  uint64_t h = p5;
  if (total_ >= 32) {
    h = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
    for (const uint64_t lane : lanes_) h = (h ^ round(0, lane)) * p1 + p4;
  }
  h += total_;
  const unsigned char *p = waiting_.data(), *end = p + total_ % 32;
  for (; end - p >= 8; p += 8) h = std::rotl(h ^ round(0, word<uint64_t>(p)), 27) * p1 + p4;
  if (end - p >= 4) h = std::rotl(h ^ word<uint32_t>(p) * p1, 23) * p2 + p3, p += 4;
  for (; p < end; ++p) h = std::rotl(h ^ *p * p5, 11) * p1;
  h = (h ^ h >> 33) * p2;
  h = (h ^ h >> 29) * p3;
  return h ^ h >> 32;
}

std::string Xxh64::text(uint64_t value) { return fmt::format("{:016x}", value); }

}  // namespace thimble
