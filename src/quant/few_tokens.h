// y = x . w^T for a few tokens: the loop that all formats share. Each weight is read and decoded once for up to four tokens, and several
// rows go together so that x is loaded once for them. Internal to quant; a format brings a `Rows` that decodes.
#pragma once
#ifdef __AVX2__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/shuffle.h"
#include "base/threads.h"
#include "quant/weight.h"

namespace thimble::quant {

// GNU vectors: sixteen lanes, on AVX-512 one register, elsewhere what the compiler makes of them; and eight for what is packed in less.
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef float F8 __attribute__((vector_size(32)));
typedef uint32_t U8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef uint16_t H8 __attribute__((vector_size(16)));

constexpr int64_t lanes = 16;
constexpr int64_t whole_rows = int64_t{1} << 40;  // as a stretch

// A step of a sum: sixteen products, or the sums of sixteen pairs of products of bf16 numbers.
inline Floats add_products(Floats sum, Floats a, Floats b) { return sum + a * b; }
#ifdef __AVX512BF16__
typedef uint16_t Pairs __attribute__((vector_size(64)));
inline Floats add_products(Floats sum, Pairs a, Pairs b) { return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
inline bool has_pairs(const Tensor& x) { return x.dtype == DType::bf16; }
#else
typedef Floats Pairs;
inline bool has_pairs(const Tensor&) { return false; }
#endif
constexpr bool multiplies_pairs = !std::is_same_v<Pairs, Floats>;

template <class V>
inline V load_as(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Floats join(F8 low, F8 high) { return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }

// Sixteen of them as floats. The compiler's own conversions of so many go one by one; masks of all lanes, since GCC warns of the plain intrinsics' undefined ones.
inline Floats load16(const float* p) { return load_as<Floats>(p); }
inline Floats load16(const bf16* p) {
#ifdef __AVX512F__
  return (Floats)((Ints)_mm512_maskz_cvtepu16_epi32(0xffff, load_as<__m256i>(p)) << 16);
#else
  const auto half = [&](int i) { return (F8)(__builtin_convertvector(load_as<H8>(p + i), U8) << 16); };
  return join(half(0), half(8));
#endif
}
inline Floats load16(const f16* p) {
#ifdef __AVX512F__
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, load_as<__m256i>(p));
#elif defined(__F16C__)
  return join((F8)_mm256_cvtph_ps(load_as<__m128i>(p)), (F8)_mm256_cvtph_ps(load_as<__m128i>(p + 8)));
#else
  Floats v;
  for (int i = 0; i < lanes; ++i) v[i] = p[i];
  return v;
#endif
}
inline Floats load16(const int8_t* p) {
#ifdef __AVX512F__
  return (Floats)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepi8_epi32(0xffff, load_as<__m128i>(p)));
#elif defined(__AVX2__)
  const auto half = [&](int i) { return (F8)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(p + i))); };
  return join(half(0), half(8));
#else
  Floats v;
  for (int i = 0; i < lanes; ++i) v[i] = p[i];
  return v;
#endif
}

// Across the lanes, as a fixed tree.
inline float sum_of(Floats x) {
  x += __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  x += __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  x += __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  return x[0] + x[1];
}

// Of eight at once, each by the same tree: half the shuffles.
inline void sums_of_eight(float* sums, const Floats* x) {
  F8 halves[8], quarters[4], pairs[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    halves[i] = __builtin_shufflevector(x[i], x[i], 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(x[i], x[i], 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const F8 a = halves[2 * i], b = halves[2 * i + 1];
    quarters[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const F8 a = quarters[2 * i], b = quarters[2 * i + 1];
    pairs[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  const F8 all = __builtin_shufflevector(pairs[0], pairs[1], 0, 2, 8, 10, 4, 6, 12, 14) + __builtin_shufflevector(pairs[0], pairs[1], 1, 3, 9, 11, 5, 7, 13, 15);
  for (int i = 0; i < 8; ++i) sums[i] = all[i / 2 + 4 * (i % 2)];
}

// How far ahead of a row's bytes those are fetched that the same place of a later row needs: rows lie one after the other, and R of them are
// read side by side, which the processor's own prefetching does not see through. Very long rows it follows by itself. At least `enough`, which is less
// where more is computed with each byte; what comes too early is in the way. One row after the other is a plain stream of bytes.
inline int64_t fetch_distance(int64_t row_bytes, int rows, int64_t enough = 4096) {
  constexpr int64_t most = 65536;
  const int64_t tile = row_bytes * rows;
  return rows == 1 || tile > most ? enough : (enough + tile - 1) / tile * tile;
}

// Rows side by side for T tokens, of which a single one takes `of_one`: the sums of rows and tokens stay in registers.
constexpr int rows_beside(int tokens, int of_one) { return tokens == 1 ? of_one : tokens == 2 ? 4 : 2; }

// The tokens as the products read them: (T, row).
template <class X>
struct FewTokens {
  const X* x;
  int64_t count, row;
};

// A `Rows<R>` decodes R rows of the matrix side by side:
//   group                      columns between two calls of enter(), a multiple of the lanes
//   Rows(source, row, scratch) begins at the first column of rows [row, row + R)
//   Scratch                    what it has in memory, apart from it, so that it stays in registers itself; one for all rows of a thread, whatever R is
//   rows_of(T)                 what R is best for T tokens: more where decoding waits for itself, one where nothing but memory is waited for
//   stretch, begin(k)          columns [k, k + stretch) come next, a multiple of the group; what is called here is called outside of the loop
//   enter<last>(k)             columns [k, k + group) come next; last: fewer are left of them, where pads_last says that Rows and x have pads
//   Vector at(r, j)            the weights of row r that meet the j-th vector of x from column k on: Floats, or Pairs where x is bf16 too
//   Floats scaled<last>(r, s)  where scales_groups says so: the sums s of a group, by the scales that its weights have in common
//   float one(r, k)            without pads: a single weight, for the columns after the last whole group
//   float scale(r)             of the whole row
// The order of additions is that of the columns, whatever R and T: sixteen partial sums, then one.
template <int R, int T, class Rows, class Source, class X>
void multiply_tile(float (&sums)[R][T], const Source& source, typename Rows::Scratch& scratch, int64_t row, const X* x, int64_t x_row, int64_t columns) {
  using Vector = decltype(std::declval<Rows>().at(0, 0));
  constexpr int64_t width = sizeof(Vector) / sizeof(X);
  Rows rows(source, row, scratch);
  Floats acc[R][T];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[r][t] = Floats{};
  }
  const auto add_group = [&]<bool last>(int64_t k) __attribute__((always_inline)) {
    rows.template enter<last>(k);
    Floats part[R][T];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) part[r][t] = Rows::scales_groups ? Floats{} : acc[r][t];
    }
#pragma GCC unroll 8
    for (int j = 0; j < Rows::group / width; ++j) {
      Vector w[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) w[r] = rows.at(r, j);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const auto v = load_as<Vector>(x + t * x_row + k + width * j);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) part[r][t] = add_products(part[r][t], w[r], v);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        if constexpr (Rows::scales_groups) acc[r][t] += rows.template scaled<last>(r, part[r][t]);
        else acc[r][t] = part[r][t];
      }
    }
  };
  const int64_t whole = columns / Rows::group * Rows::group;
  for (int64_t from = 0; from < columns; from += Rows::stretch) {
    rows.begin(from);
    const int64_t end = std::min(whole, from + Rows::stretch);
    for (int64_t k = from; k < end; k += Rows::group) add_group.template operator()<false>(k);
  }
  if constexpr (Rows::pads_last) {
    if (whole < columns) add_group.template operator()<true>(whole);
  }
  float across[R][T];
  if constexpr (R * T == 8) {
    sums_of_eight(across[0], acc[0]);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < R * T; ++i) across[i / T][i % T] = sum_of(acc[i / T][i % T]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      float sum = across[r][t];
      if constexpr (!Rows::pads_last)
        for (int64_t k = whole; k < columns; ++k) sum += rows.one(r, k) * float(x[t * x_row + k]);
      sums[r][t] = sum * rows.scale(r);
    }
  }
}

// Rows [begin, end) against T tokens; Y is the type of y and of c, which may be null.
template <int T, template <int> class Rows, class Source, class X, class Y>
void multiply_rows(Y* y, const Y* c, int64_t y_row, const X* x, int64_t x_row, int64_t columns, const Source& source, typename Rows<1>::Scratch& scratch, int64_t begin, int64_t end) {
  constexpr int R = Rows<1>::rows_of(T);
  const auto tile = [&]<int r_count>(int64_t row) {
    float sums[r_count][T];
    multiply_tile<r_count, T, Rows<r_count>>(sums, source, scratch, row, x, x_row, columns);
    for (int r = 0; r < r_count; ++r)
      for (int t = 0; t < T; ++t) y[t * y_row + row + r] = Y(sums[r][t] + (c ? float(c[t * y_row + row + r]) : 0.0f));
  };
  int64_t row = begin;
  for (; row + R <= end; row += R) tile.template operator()<R>(row);
  for (; row < end; ++row) tile.template operator()<1>(row);
}

constexpr int64_t strip = 16;
struct NoScratch {};

// All N rows and T tokens. Rows go in strips that stay in the cache while groups of at most four tokens pass over them.
template <template <int> class Rows, class Source, class X, class Y>
void multiply_all(Y* y, const Y* c, const FewTokens<X>& x, int64_t rows, int64_t columns, const Source& source) {
  parallel_for(rows, strip, [&](int64_t first, int64_t last) {
    typename Rows<1>::Scratch scratch;
    for (int64_t begin = first; begin < last; begin += strip) {
      const int64_t end = std::min(last, begin + strip);
      for (int64_t t = 0; t < x.count; t += 4) {
        Y* to = y + t * rows;
        const Y* plus = c ? c + t * rows : nullptr;
        const X* from = x.x + t * x.row;
        switch (std::min<int64_t>(4, x.count - t)) {
          case 1: multiply_rows<1, Rows>(to, plus, rows, from, x.row, columns, source, scratch, begin, end); break;
          case 2: multiply_rows<2, Rows>(to, plus, rows, from, x.row, columns, source, scratch, begin, end); break;
          case 3: multiply_rows<3, Rows>(to, plus, rows, from, x.row, columns, source, scratch, begin, end); break;
          default: multiply_rows<4, Rows>(to, plus, rows, from, x.row, columns, source, scratch, begin, end); break;
        }
      }
    }
  });
}

// x in f32 for the cpu: itself, or a place in the scratch for as_f32() to fill.
Tensor f32_scratch_for(Stream&, Tensor x);
void as_f32(Tensor y, Tensor x);  // cpu, inside launch()

}  // namespace thimble::quant
