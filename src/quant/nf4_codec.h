// Reading NF4 on the cpu: scales and weights of packed blocks, for unpacking and for the product. Internal to quant.
// A block's code book is scaled first (16 products), so each weight costs a table lookup and is the very number that unpack writes.
#pragma once
#include "quant/dynamic8.h"
#include "quant/few_tokens.h"
#include "quant/nf4.h"

namespace thimble::quant {

// The bytes of a packed matrix; read inside launch() only.
struct Nf4Bytes {
  const uint8_t* codes = nullptr;
  const float* book = nullptr;            // the numbers that codes stand for, to be scaled
  const float* absmax = nullptr;          // nf4: a scale a block
  const uint8_t* nested_codes = nullptr;  // nf4_dq: its code,
  const float* nested_absmax = nullptr;   // the scale of 256 of them,
  const float* map = nullptr;             // the signed dynamic map,
  float offset = 0;                       // and what was taken off
  int64_t count = 0, columns = 0;

  // Products with bf16 take the code book in bf16, as tensor cores do: a layer multiplied here has the numbers of one on a card.
  explicit Nf4Bytes(const Weight& w, DType activations = DType::f32)
      : codes(w.parts[0].get<uint8_t>()), book(activations == DType::bf16 ? nf4_values_bf16().data() : nf4_values.data()), count(w.shape.count()), columns(w.shape[1]) {
    if (w.format == FormatId::nf4) {
      absmax = w.parts[1].get<float>();
      return;
    }
    nested_codes = w.parts[1].get<uint8_t>();
    nested_absmax = w.parts[2].get<float>();
    map = signed_map().values().data();
    offset = count ? *w.parts[3].get<float>() : 0.0f;
  }

  int code(int64_t i) const { return i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15; }

  void scales(float* out, int64_t first, int64_t n) const;  // of blocks [first, first + n)
};

// Where the j-th weight of a word of codes begins: the even weight lies in the high half of its byte.
constexpr int nf4_shift(int j) { return 8 * (j / 2) + (j % 2 == 0 ? 4 : 0); }

// The unscaled weights of sixteen codes, each in the low four bits of its lane.
[[gnu::always_inline]] inline Floats nf4_lookup(Ints codes, Floats book) {
#ifdef __AVX512F__
  return (Floats)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)codes, (__m512)book);  // looks at four bits by itself
#else
  const F8 low = __builtin_shufflevector(book, book, 0, 1, 2, 3, 4, 5, 6, 7), high = __builtin_shufflevector(book, book, 8, 9, 10, 11, 12, 13, 14, 15);
  const I8 first = __builtin_shufflevector(codes, codes, 0, 1, 2, 3, 4, 5, 6, 7), second = __builtin_shufflevector(codes, codes, 8, 9, 10, 11, 12, 13, 14, 15);
  const F8 a = shuffle(low, high, first & 15), b = shuffle(low, high, second & 15);
  return join(a, b);
#endif
}

// The code book as lookups of a vector's kind take it: for pairs, whose lookup looks at five bits of a code, it is there twice.
template <class Vector>
Vector nf4_book(const float* values) {
  const auto all = load_as<Floats>(values);
  if constexpr (std::is_same_v<Vector, Floats>) {
    return all;
  } else {
    typedef uint32_t Bits __attribute__((vector_size(64)));
    typedef uint16_t Halves __attribute__((vector_size(32)));
    const auto h = __builtin_convertvector((Bits)all >> 16, Halves);  // they are bf16 numbers
    return __builtin_shufflevector(h, h, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
  }
}
#ifdef __AVX512BF16__
[[gnu::always_inline]] inline Pairs nf4_lookup(Pairs codes, Pairs book) { return (Pairs)_mm512_maskz_permutexvar_epi16(~__mmask32{}, (__m512i)codes, (__m512i)book); }
#endif

// One block's code book times its scale.
struct Nf4Table {
  F8 low, high;

  Nf4Table() = default;
  explicit Nf4Table(float scale) : low(load_as<F8>(nf4_values.data()) * scale), high(load_as<F8>(nf4_values.data() + 8) * scale) {}

  // The eight weights of four bytes.
  F8 lookup(const uint8_t* codes) const {
    uint32_t word;
    std::memcpy(&word, codes, 4);
    constexpr U8 shifts = {4, 0, 12, 8, 20, 16, 28, 24};  // the even weight lies in the high half of its byte
    const U8 lanes = (U8{} + word) >> shifts;
#ifdef __AVX512VL__
    return (F8)_mm256_permutex2var_ps((__m256)low, (__m256i)lanes, (__m256)high);  // looks at four bits by itself
#else
    return shuffle(low, high, (I8)(lanes & 15));
#endif
  }
};
static_assert(std::endian::native == std::endian::little, "the codes of a word are taken in the order of its bytes");

}  // namespace thimble::quant
