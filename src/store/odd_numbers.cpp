// By their bits, since a float of any width is odd in the same way: an exponent of ones or of zeros.
#include "store/odd_numbers.h"

#include <algorithm>
#include <cstring>

namespace thimble::store {
namespace {

// Bits below the sign: `fraction` of them behind the exponent. E4M3 (OCP's "fn") has no infinity, and one NaN: all ones.
struct Layout {
  std::string_view type;
  int bytes, fraction;
  bool infinities;
};
constexpr Layout layouts[] = {{"F64", 8, 52, true}, {"F32", 4, 23, true},     {"BF16", 2, 7, true},
                              {"F16", 2, 10, true}, {"F8_E5M2", 1, 2, true}, {"F8_E4M3", 1, 3, false}};

template <class Bits>
OddNumbers count(const std::byte* data, int64_t n, const Layout& l) {
  const auto magnitude_bits = Bits(Bits(~Bits{0}) >> 1), fraction = Bits((Bits{1} << l.fraction) - 1), ones = Bits(magnitude_bits & Bits(~fraction));
  OddNumbers odd;
  for (int64_t i = 0; i < n; ++i) {
    Bits x;
    std::memcpy(&x, data + i * int64_t(sizeof x), sizeof x);
    x &= magnitude_bits;
    if (!l.infinities) odd.nan += x == magnitude_bits;
    else odd.nan += x > ones, odd.infinite += x == ones;
    odd.subnormal += x != 0 && x <= fraction;
  }
  return odd;
}

}  // namespace

OddNumbers odd_numbers(const SafetensorsFile& file, const TensorInfo& t) {
  OddNumbers all;
  for (const Layout& l : layouts) {
    if (l.type != t.type) continue;
    std::vector<std::byte> piece(size_t(std::min<int64_t>(t.bytes(), int64_t{1} << 20)));
    for (int64_t at = 0; at < t.bytes(); at += int64_t(piece.size())) {
      const int64_t bytes = std::min<int64_t>(t.bytes() - at, int64_t(piece.size()));
      file.read_bytes(t, at, bytes, piece.data());
      const int64_t n = bytes / l.bytes;
      const OddNumbers some = l.bytes == 8   ? count<uint64_t>(piece.data(), n, l)
                              : l.bytes == 4 ? count<uint32_t>(piece.data(), n, l)
                              : l.bytes == 2 ? count<uint16_t>(piece.data(), n, l)
                                             : count<uint8_t>(piece.data(), n, l);
      all.nan += some.nan, all.infinite += some.infinite, all.subnormal += some.subnormal;
    }
  }
  return all;
}

}  // namespace thimble::store
