// Products of small tiles in cache, the inner loop of attention: a few rows times a few vectors, held in registers over the whole sum.
// Tiles are float, whatever the tensors are, and padded: rows to tile_rows, columns to lanes; the pads are zero or never looked at.
#pragma once
#include <algorithm>

#include "ops/vector_math.h"

namespace thimble::ops {

constexpr int64_t tile_rows = 64;
constexpr int64_t rows_together = 8;  // a product computes its rows in whole groups of as many

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// a(i, k) = data[i * row + k * column]: a transposed operand is the same tile with the steps exchanged.
struct Steps { int64_t row = 0, column = 1; };

// c (R, V * lanes) = or += a (R, depth) . b (depth, V * lanes)
template <int R, int V>
void product_in_registers(float* c, int64_t c_row, const float* a, Steps step, const float* b, int64_t b_row, int64_t depth, bool add) {
  Floats total[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) total[i][j] = add ? load(c + i * c_row + j * lanes) : Floats{};
  }
  for (int64_t k = 0; k < depth; ++k) {
    Floats right[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) right[j] = load(b + k * b_row + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      const float left = a[i * step.row + k * step.column];
#pragma GCC unroll 4
      for (int j = 0; j < V; ++j) total[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < V; ++j) store(c + i * c_row + j * lanes, total[i][j]);
  }
}

// c (rows, columns) = or += a (rows, depth) . b (depth, columns); rows are rounded up to rows_together, columns to lanes.
inline void tile_product(float* c, int64_t c_row, const float* a, Steps step, const float* b, int64_t b_row, int64_t rows, int64_t columns,
                         int64_t depth, bool add) {
  for (int64_t j = 0; j < columns; j += 4 * lanes) {
    const int64_t vectors = std::min<int64_t>(4, (columns - j + lanes - 1) / lanes);
    for (int64_t i = 0; i < rows; i += rows_together) {
      float* to = c + i * c_row + j;
      const float* left = a + i * step.row;
      const auto four = [&](auto v) {
        constexpr int width = decltype(v)::value;
        product_in_registers<4, width>(to, c_row, left, step, b + j, b_row, depth, add);
        if (rows - i > 4) product_in_registers<4, width>(to + 4 * c_row, c_row, left + 4 * step.row, step, b + j, b_row, depth, add);
      };
      switch (vectors) {  // fewer vectors take more rows: eight sums in flight hide the latency of a multiply-add
        case 1: product_in_registers<8, 1>(to, c_row, left, step, b + j, b_row, depth, add); break;
        case 2: product_in_registers<8, 2>(to, c_row, left, step, b + j, b_row, depth, add); break;
        case 3: four(std::integral_constant<int, 3>{}); break;
        default: four(std::integral_constant<int, 4>{});
      }
    }
  }
}

// c (rows, keys) = a (rows, width) . b (keys, width)^T for a few rows, keys rounded up to lanes.
inline void few_products(float* c, int64_t c_row, const float* a, const float* b, int64_t width, int64_t rows, int64_t keys) {
  for (int64_t j = 0; j < keys; j += lanes)
    for (int64_t i = 0; i < rows; ++i) {
      const float *left = a + i * width, *right = b + j * width;
      store(c + i * c_row + j, sum_each([&](int key) __attribute__((always_inline)) {
              Floats total = load(left) * load(right + key * width);
              for (int64_t d = lanes; d < width; d += lanes) total += load(left + d) * load(right + key * width + d);
              return total;
            }));
    }
}

// tile (rows, width), width = dim rounded up to lanes: row i is scale * row_of(i)[0 .. dim); pads are zero.
template <class RowOf>
void load_rows(float* tile, int64_t width, int64_t rows, int64_t dim, float scale, RowOf&& row_of) {
  for (int64_t i = 0; i < rows; ++i) {
    const auto* x = row_of(i);
    each_vector(dim, [&](int64_t d, auto n) { store(tile + i * width + d, scale * load(x + d, n)); });
  }
  std::fill(tile + rows * width, tile + round_up(rows, rows_together) * width, 0.0f);
}

// tile (dim, tile_rows): column i is scale * row_of(i); pads are zero.
template <class RowOf>
void load_columns(float* tile, int64_t rows, int64_t dim, float scale, RowOf&& row_of) {
  const int64_t padded = round_up(rows, lanes);
  for (int64_t i = 0; i < rows; ++i) {
    const auto* x = row_of(i);
    for (int64_t d = 0; d < dim; ++d) tile[d * tile_rows + i] = scale * float(x[d]);
  }
  for (int64_t d = 0; d < dim; ++d) std::fill(tile + d * tile_rows + rows, tile + d * tile_rows + padded, 0.0f);
}

}  // namespace thimble::ops
