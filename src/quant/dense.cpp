// Conversions between float types, and the product of dense weights with a few tokens; also what every format's product shares.
#include "quant/dense.h"

#include "quant/few_tokens.h"

namespace thimble::quant {

void dense_multiply_few_cuda(CudaContext&, Tensor x, std::span<const FewProduct>);  // dense.cu

namespace {

// Written to the bits: a store of the struct bf16 keeps the compiler from vectorising.
inline void put(float* to, float x) { *to = x; }
inline void put(bf16* to, float x) { to->bits = bf16(x).bits; }
inline void put(f16* to, float x) { *to = f16(x); }

template <class To, class From>
void convert_all(To* y, const From* x, int64_t n) {
  parallel_for(n, 1 << 14, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) put(y + i, float(x[i]));
  });
}

void convert(Tensor y, Tensor x) {
  visit_float(y.dtype, [&](auto to) {
    visit_float(x.dtype, [&](auto from) { convert_all(y.get<decltype(to)>(), x.get<decltype(from)>(), y.count()); });
  });
}

template <class W>
struct Matrix {
  const W* values;
  int64_t columns;
};

// Vector: how the weights meet x: as Floats, or as they lie in memory.
template <int R, class W, class Vector>
struct DenseRows {
  static constexpr bool converted = std::is_same_v<Vector, Floats>;
  static constexpr int64_t group = 64, stretch = whole_rows;
  static constexpr int rows_of(int tokens) { return converted ? rows_beside(tokens, 4) : 1; }
  static constexpr bool scales_groups = false, pads_last = false;
  const W* row[R];
  const W* here[R];
  int64_t ahead;
  using Scratch = NoScratch;
  DenseRows(const Matrix<W>& m, int64_t first, Scratch&) : ahead(fetch_distance(m.columns * int64_t{sizeof(W)}, R)) {
    for (int r = 0; r < R; ++r) row[r] = here[r] = m.values + (first + r) * m.columns;
  }
  void begin(int64_t) {}
  template <bool last>
  void enter(int64_t k) {
    for (int r = 0; r < R; ++r) {
      here[r] = row[r] + k;
      for (int64_t i = 0; i < group; i += 64 / int64_t{sizeof(W)}) __builtin_prefetch(reinterpret_cast<const char*>(here[r] + i) + ahead);
    }
  }
  Vector at(int r, int j) const {
    if constexpr (converted) return load16(here[r] + lanes * j);
    else return load_as<Vector>(here[r] + int64_t{sizeof(Vector) / sizeof(W)} * j);
  }
  float one(int r, int64_t k) const { return row[r][k]; }
  float scale(int) const { return 1; }
};

template <int R> using RowsF32 = DenseRows<R, float, Floats>;
template <int R> using RowsBf16 = DenseRows<R, bf16, Floats>;
template <int R> using RowsF16 = DenseRows<R, f16, Floats>;
template <int R> using RowsOfPairs = DenseRows<R, bf16, Pairs>;

}  // namespace

void dense_parts(const Shape& matrix, DType dense, std::array<Part, 4>& out, int& count) {
  out[0] = {"", dense, matrix};
  count = 1;
}

void dense_pack(Stream& s, const Weight& out, const Numbers& numbers) {
  check_parts(out);
  for_each_strip(out, numbers, [&](int64_t row, Tensor dense) {
    const Tensor to = out.dense().rows(row, dense.count() / out.shape.row());
    launch(s, {.name = "dense pack", .bytes = double(to.bytes() + dense.bytes())}, [&] { convert(to, dense); }, [&](auto& cuda) { dense_convert_cuda(cuda, to, dense); });
  });
}

void dense_unpack(Stream& s, Tensor dense, const Weight& w) {
  check_parts(w);
  check(dense.count() == w.shape.count(), "dense unpack: as many numbers as the matrix has");
  const Tensor from = w.dense();
  launch(s, {.name = "dense unpack", .bytes = double(from.bytes() + dense.bytes())}, [&] { convert(dense, from); }, [&](auto& cuda) { dense_convert_cuda(cuda, dense, from); });
}

void dense_multiply_few(Stream& s, Tensor x, std::span<const FewProduct> products) {
  const Work work = few_tokens_work("dense multiply", x, products);
  const Scope scope(s.arena);
  const DType stored = products.front().w->dense().dtype;
  const bool pairs = has_pairs(x) && stored == DType::bf16;
  const Tensor tokens = pairs ? x : f32_scratch_for(s, x);
  launch(s, work, [&] {
    const auto multiply = [&]<template <int> class Rows, class W, class X>(W, const X* from) {
      for (const FewProduct& p : products)
        visit_float(p.y.dtype, [&](auto out) {
          using Y = decltype(out);
          const int64_t rows = p.w->shape[0], columns = p.w->shape[1];
          multiply_all<Rows>(p.y.get<Y>(), p.c ? p.c.get<Y>() : nullptr, FewTokens<X>{from, x.shape[0], columns}, rows, columns, Matrix<W>{p.w->dense().get<W>(), columns});
        });
    };
    if constexpr (multiplies_pairs) {
      if (pairs) return multiply.template operator()<RowsOfPairs>(bf16{}, x.get<bf16>());
    }
    as_f32(tokens, x);
    switch (stored) {
      case DType::f32: return multiply.template operator()<RowsF32>(0.0f, tokens.get<float>());
      case DType::bf16: return multiply.template operator()<RowsBf16>(bf16{}, tokens.get<float>());
      default: return multiply.template operator()<RowsF16>(f16{}, tokens.get<float>());
    }
  }, [&](auto& cuda) { dense_multiply_few_cuda(cuda, x, products); });
}

void dense_decode(float* out, const Weight& w, int64_t first, int64_t n) {
  visit_float(w.dense().dtype, [&]<class T>(T) { std::copy_n(w.dense().get<T>() + first, n, out); });
}

Tensor f32_scratch_for(Stream& s, Tensor x) {
  return x.dtype == DType::f32 || s.device.kind() == DeviceKind::cuda ? x : s.scratch("few tokens f32", DType::f32, x.shape);
}

void as_f32(Tensor y, Tensor x) {
  if (y.data != x.data) convert(y, x);
}

Work few_tokens_work(const char* name, const Tensor& x, std::span<const FewProduct> products) {
  check(!products.empty() && products.size() <= size_t(most_few_products) && x.shape.rank() == 2, "products of a few tokens: one to three, of x (T, K)");
  const int64_t t = x.shape[0], k = x.shape[1];
  const FewProduct& first = products.front();
  check(t <= most_few_tokens, "a product of few tokens has few tokens");
  Work work{.name = name, .bytes = double(x.bytes())};
  for (const auto& [y, w, c] : products) {
    check_parts(*w);
    check(w->shape[1] == k && y.shape == Shape{t, w->shape[0]}, "a product of few tokens: x (T, K), w (N, K), y (T, N)");
    check(!c || (c.shape == y.shape && c.dtype == y.dtype), "what is added to a product is like it");
    check(w->format == first.w->format && w->parts[0].dtype == first.w->parts[0].dtype && y.dtype == first.y.dtype, "products of one op are of one format and type");
    work.flops += 2.0 * double(t) * double(w->shape[0]) * double(k);
    work.bytes += double(bytes_of(*w) + y.bytes() * (c ? 2 : 1));
  }
  return work;
}

}  // namespace thimble::quant
