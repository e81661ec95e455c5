// y = x . w^T for a few tokens: the loop that all formats share. Each weight is read and decoded once for up to four tokens, and several
// rows go together so that x is loaded once for them. Internal to quant; a format brings a `Rows` that decodes.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/threads.h"
#include "quant/weight.h"

namespace thimble::quant {

// GNU vectors: eight floats, on AVX2 one register, elsewhere what the compiler makes of them.
typedef float F8 __attribute__((vector_size(32)));
typedef uint32_t U8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef uint16_t H8 __attribute__((vector_size(16)));

template <class V>
inline V load_as(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

constexpr int64_t weight_block = 64;  // columns between two calls of Rows::enter

// A `Rows<R>` decodes R rows of the matrix side by side:
//   Rows(source, row)          begins at the first column of rows [row, row + R)
//   enter(k)                   columns [k, k + 64) come next
//   F8 at(r, j)                columns k + 8 j ... of row r
//   float one(r, k)            a single weight, for the columns after the last whole 64
// The order of additions is that of the columns, whatever R and T: sixteen partial sums, then one.
template <int R, int T, class Rows>
void multiply_tile(float (&sums)[R][T], Rows rows, const float* x, int64_t columns) {
  F8 acc[R][T][2] = {};
  const int64_t whole = columns / weight_block * weight_block;
  for (int64_t k = 0; k < whole; k += weight_block) {
    rows.enter(k);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      F8 w[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) w[r] = rows.at(r, j);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const F8 v = load_as<F8>(x + t * columns + k + 8 * j);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) acc[r][t][j & 1] += w[r] * v;
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      const F8 a = acc[r][t][0] + acc[r][t][1];
      float sum = ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
      for (int64_t k = whole; k < columns; ++k) sum += rows.one(r, k) * x[t * columns + k];
      sums[r][t] = sum;
    }
}

// Rows [begin, end) against T tokens; Y is the type of y and of c, which may be null.
template <int T, template <int> class Rows, class Source, class Y>
void multiply_rows(Y* y, const Y* c, int64_t y_row, const float* x, int64_t columns, const Source& source, int64_t begin, int64_t end) {
  constexpr int R = T <= 2 ? 4 : 2;  // 16 accumulators at most: half of the registers of AVX-512
  const auto tile = [&]<int r_count>(int64_t row) {
    float sums[r_count][T];
    multiply_tile<r_count, T>(sums, Rows<r_count>(source, row), x, columns);
    for (int r = 0; r < r_count; ++r)
      for (int t = 0; t < T; ++t) y[t * y_row + row + r] = Y(sums[r][t] + (c ? float(c[t * y_row + row + r]) : 0.0f));
  };
  int64_t row = begin;
  for (; row + R <= end; row += R) tile.template operator()<R>(row);
  for (; row < end; ++row) tile.template operator()<1>(row);
}

// All N rows and T tokens. Rows go in strips that stay in the cache while groups of at most four tokens pass over them.
template <template <int> class Rows, class Source, class Y>
void multiply_all(Y* y, const Y* c, const float* x, int64_t tokens, int64_t rows, int64_t columns, const Source& source) {
  constexpr int64_t strip = 16;
  parallel_for(rows, strip, [&](int64_t first, int64_t last) {
    for (int64_t begin = first; begin < last; begin += strip) {
      const int64_t end = std::min(last, begin + strip);
      for (int64_t t = 0; t < tokens; t += 4) {
        Y* to = y + t * rows;
        const Y* plus = c ? c + t * rows : nullptr;
        const float* from = x + t * columns;
        switch (std::min<int64_t>(4, tokens - t)) {
          case 1: multiply_rows<1, Rows>(to, plus, rows, from, columns, source, begin, end); break;
          case 2: multiply_rows<2, Rows>(to, plus, rows, from, columns, source, begin, end); break;
          case 3: multiply_rows<3, Rows>(to, plus, rows, from, columns, source, begin, end); break;
          default: multiply_rows<4, Rows>(to, plus, rows, from, columns, source, begin, end); break;
        }
      }
    }
  });
}

// x in f32 for the cpu: itself, or a place in the scratch for as_f32() to fill.
Tensor f32_scratch_for(Stream&, Tensor x);
void as_f32(Tensor y, Tensor x);  // cpu, inside launch()

// Shapes and formats agree and T is few; returns the work of the products.
Work few_tokens_work(const char* name, const Tensor& x, std::span<const FewProduct>);

}  // namespace thimble::quant
