// The element types that bytes can have, and conversions of the two 16-bit floats that C++20 lacks.
// Values only: a DType says nothing of who owns the bytes or what they mean (packed formats are quant's).
#pragma once
#include <bit>
#include <cstdint>
#include <string_view>

namespace thimble {

enum class DType : uint8_t { f32, bf16, f16, i32, u8, i8 };

constexpr int64_t size_of(DType t) {
  switch (t) {
    case DType::f32: case DType::i32: return 4;
    case DType::bf16: case DType::f16: return 2;
    case DType::u8: case DType::i8: return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType t) {
  switch (t) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
    case DType::i8: return "i8";
  }
  return "?";
}

// bfloat16: the upper half of a float; rounds to nearest even, NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? uint16_t((u >> 16) | 0x40u) : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

// IEEE half; the compiler's own type does the arithmetic of conversion (F16C where there is one).
struct f16 {
  _Float16 value = 0;
  f16() = default;
  explicit f16(float x) : value(static_cast<_Float16>(x)) {}
  operator float() const { return static_cast<float>(value); }
};

static_assert(sizeof(bf16) == 2 && sizeof(f16) == 2);

template <class T> struct dtype_of_t;
template <> struct dtype_of_t<float> { static constexpr DType value = DType::f32; };
template <> struct dtype_of_t<bf16> { static constexpr DType value = DType::bf16; };
template <> struct dtype_of_t<f16> { static constexpr DType value = DType::f16; };
template <> struct dtype_of_t<int32_t> { static constexpr DType value = DType::i32; };
template <> struct dtype_of_t<uint8_t> { static constexpr DType value = DType::u8; };
template <> struct dtype_of_t<int8_t> { static constexpr DType value = DType::i8; };
template <class T> constexpr DType dtype_of = dtype_of_t<T>::value;

}  // namespace thimble
