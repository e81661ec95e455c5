// Rows are independent, so threads share them out; the product decodes eight codes with one widening load.
#include "quant/int8.h"

#include <cmath>

#include "quant/dynamic8.h"
#include "quant/few_tokens.h"

namespace thimble::quant {

void int8_pack_cuda(CudaContext&, const Weight& out, Tensor dense);  // int8.cu
void int8_unpack_cuda(CudaContext&, Tensor dense, const Weight&);
void int8_multiply_few_cuda(CudaContext&, Tensor x, std::span<const FewProduct>);

namespace {

struct Matrix8 {
  const int8_t* codes;
  const float* absmax;
  int64_t columns;

  explicit Matrix8(const Weight& w) : codes(w.parts[0].get<int8_t>()), absmax(w.parts[1].get<float>()), columns(w.shape[1]) {}
};

template <int R>
struct Int8Rows {
  static constexpr int64_t group = 64, stretch = whole_rows;
  static constexpr int rows_of(int tokens) { return rows_beside(tokens, 4); }
  static constexpr bool scales_groups = false, pads_last = false;
  const int8_t *row[R], *here[R];
  float scales[R];
  int64_t ahead;

  using Scratch = NoScratch;
  Int8Rows(const Matrix8& m, int64_t first, Scratch&) : ahead(fetch_distance(m.columns, R)) {
    for (int r = 0; r < R; ++r) {
      row[r] = here[r] = m.codes + (first + r) * m.columns;
      scales[r] = m.absmax[first + r] * int8_step;
    }
  }
  void begin(int64_t) {}
  template <bool last>
  void enter(int64_t k) {
    for (int r = 0; r < R; ++r) {
      here[r] = row[r] + k;
      __builtin_prefetch(here[r] + ahead);
    }
  }
  Floats at(int r, int j) const { return load16(here[r] + lanes * j); }
  float one(int r, int64_t k) const { return row[r][k]; }
  float scale(int r) const { return scales[r]; }
};

void pack_rows(const Weight& out, Tensor dense) {
  const int64_t columns = out.shape[1];
  visit_float(dense.dtype, [&]<class T>(T) {
    parallel_for(out.shape[0], 8, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const T* x = dense.get<T>() + row * columns;
        int8_t* codes = out.parts[0].get<int8_t>() + row * columns;
        float most = 0;
        for (int64_t k = 0; k < columns; ++k) {
          const float v = std::abs(as_f16(float(x[k])));
          most = v > most ? v : most;  // NaN is never greater
        }
        out.parts[1].get<float>()[row] = most;
        const float scale = most > 0 ? int8_top / most : 0.0f;
        for (int64_t k = 0; k < columns; ++k) {
          const float v = as_f16(float(x[k])) * scale;
          codes[k] = v == v ? int8_t(std::nearbyint(v)) : int8_t{0};
        }
      }
    });
  });
}

}  // namespace

void int8_parts(const Shape& matrix, DType, std::array<Part, 4>& out, int& count) {
  out[0] = {"", DType::i8, matrix};
  out[1] = {".absmax", DType::f32, {matrix[0]}};
  count = 2;
}

void int8_pack(Stream& s, const Weight& whole, const Numbers& numbers) {
  check_parts(whole);
  for_each_strip(whole, numbers, [&](int64_t first, Tensor dense) {
    const int64_t columns = whole.shape[1], rows = dense.count() / std::max<int64_t>(columns, 1);
    const Weight out{.format = whole.format, .shape = {rows, columns}, .parts = {whole.parts[0].rows(first, rows), whole.parts[1].rows(first, rows)}};
    launch(s, {.name = "int8 pack", .bytes = double(bytes_of(out) + dense.bytes())}, [&] { pack_rows(out, dense); }, [&](auto& cuda) { int8_pack_cuda(cuda, out, dense); });
  });
}

void int8_unpack(Stream& s, Tensor dense, const Weight& w) {
  check_parts(w);
  check(dense.count() == w.shape.count(), "int8 unpack: as many numbers as the matrix has");
  launch(s, {.name = "int8 unpack", .bytes = double(bytes_of(w) + dense.bytes())}, [&] {
    const Matrix8 m(w);
    visit_float(dense.dtype, [&]<class T>(T) {
      parallel_for(w.shape[0], 8, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const float scale = m.absmax[row] * int8_step;
          const int8_t* from = m.codes + row * m.columns;
          T* to = dense.get<T>() + row * m.columns;
          for (int64_t k = 0; k < m.columns; ++k) to[k] = T(float(from[k]) * scale);
        }
      });
    });
  }, [&](auto& cuda) { int8_unpack_cuda(cuda, dense, w); });
}

void int8_multiply_few(Stream& s, Tensor x, std::span<const FewProduct> products) {
  const Work work = few_tokens_work("int8 multiply", x, products);
  const Scope scope(s.arena);
  const Tensor x32 = f32_scratch_for(s, x);
  launch(s, work, [&] {
    as_f32(x32, x);
    for (const FewProduct& p : products)
      visit_float(p.y.dtype, [&](auto out) {
        using Y = decltype(out);
        multiply_all<Int8Rows>(p.y.get<Y>(), p.c ? p.c.get<Y>() : nullptr, FewTokens<float>{x32.get<float>(), x.shape[0], p.w->shape[1]}, p.w->shape[0], p.w->shape[1], Matrix8(*p.w));
      });
  }, [&](auto& cuda) { int8_multiply_few_cuda(cuda, x, products); });
}

void int8_decode(float* out, const Weight& w, int64_t first, int64_t n) {
  const Matrix8 m(w);
  for (int64_t i = 0; i < n; ++i) out[i] = float(m.codes[first + i]) * (m.absmax[(first + i) / m.columns] * int8_step);
}

}  // namespace thimble::quant
