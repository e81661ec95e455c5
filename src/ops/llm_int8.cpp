// Four passes around two matrix products; what they exchange lies in scratch whose size the shapes alone decide.
#include "ops/llm_int8.h"

#include <cmath>

#include "base/threads.h"
#include "ops/llm_int8_parts.h"
#include "ops/matmul.h"
#include "quant/int8.h"

namespace thimble::ops {

// llm_int8.cu
void find_outliers_cuda(CudaContext&, const Int8Product&);
void round_rows_cuda(CudaContext&, const Int8Product&);
void widen_codes_cuda(CudaContext&, const Int8Product&);
void scale_sums_cuda(CudaContext&, Tensor y, Tensor sums, Tensor row_scales, Tensor absmax, Tensor c);

namespace {

constexpr int64_t tokens_at_once = 1024;  // whose f32 sums are in memory together
constexpr float sum_step = quant::int8_step * quant::int8_step;

template <class T>
void find_outliers(const Int8Product& p) {
  const int64_t rows = p.x.shape[0], columns = p.x.shape[1], cap = p.columns.count();
  float* most = p.column_most.get<float>();
  parallel_for(columns, 64, [&](int64_t begin, int64_t end) {
    std::fill(most + begin, most + end, 0.0f);
    for (int64_t row = 0; row < rows; ++row) {
      const T* x = p.x.get<T>() + row * columns;
#pragma omp simd
      for (int64_t k = begin; k < end; ++k) {
        const float v = std::abs(float(x[k]));
        most[k] = v > most[k] ? v : most[k];
      }
    }
    for (int64_t k = begin; k < end; ++k) most[k] = quant::as_f16(most[k]);  // which keeps their order
  });
  float threshold = outlier_threshold;
  while (std::count_if(most, most + columns, [&](float v) { return v >= threshold; }) > cap) threshold *= 2;
  *p.threshold.get<float>() = threshold;
  int32_t *const picked = p.columns.get<int32_t>(), *to = picked;
  std::fill_n(to, cap, -1);
  for (int64_t k = 0; k < columns; ++k)
    if (most[k] >= threshold) *to++ = int32_t(k);
  *p.found.get<int32_t>() = int32_t(to - picked);
}

template <class T>
void round_rows(const Int8Product& p) {
  const int64_t columns = p.x.shape[1], cap = p.columns.count(), found = *p.found.get<int32_t>();
  const float threshold = *p.threshold.get<float>();
  const int32_t* outliers = p.columns.get<int32_t>();
  parallel_for(p.x.shape[0], 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = p.x.get<T>() + row * columns;
      T* codes = p.codes.get<T>() + row * columns;
      float most = 0;
#pragma omp simd reduction(max : most)
      for (int64_t k = 0; k < columns; ++k) {
        const float v = std::abs(quant::as_f16(float(x[k])));
        most = std::max(most, v < threshold ? v : 0.0f);
      }
      p.row_scales.get<float>()[row] = most;
      const float scale = most > 0 ? quant::int8_top / most : 0.0f;
#pragma omp simd
      for (int64_t k = 0; k < columns; ++k) codes[k] = T(std::nearbyint(quant::as_f16(float(x[k])) * scale));
      for (int64_t j = 0; j < found; ++j) {
        p.x_outliers.get<T>()[row * cap + j] = x[outliers[j]];
        codes[outliers[j]] = T(0.0f);
      }
    }
  });
}

template <class T>
void widen_codes(const Int8Product& p) {
  const int64_t columns = p.x.shape[1], cap = p.columns.count(), found = *p.found.get<int32_t>();
  const int32_t* outliers = p.columns.get<int32_t>();
  parallel_for(p.w_codes.shape[0], 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int8_t* from = p.w.parts[0].get<int8_t>() + row * columns;
      T* to = p.w_codes.get<T>() + row * columns;
      const float scale = p.w.parts[1].get<float>()[row] * quant::int8_step;
#pragma omp simd
      for (int64_t k = 0; k < columns; ++k) to[k] = T(float(from[k]));
      for (int64_t j = 0; j < found; ++j) p.w_outliers.get<T>()[row * cap + j] = T(float(from[outliers[j]]) * scale);
    }
  });
}

void scale_sums(Tensor y, Tensor sums, Tensor row_scales, Tensor absmax, Tensor c) {
  const int64_t n = y.shape[1];
  visit_float(y.dtype, [&]<class Y>(Y) {
    parallel_for(y.shape[0], 4, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float scale = row_scales.get<float>()[row] * sum_step;
        const float *sum = sums.get<float>() + row * n, *of_row = absmax.get<float>();
        Y* to = y.get<Y>() + row * n;
        if (const Y* plus = c ? c.get<Y>() + row * n : nullptr) {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) to[i] = Y(sum[i] * (scale * of_row[i]) + float(plus[i]));
        } else {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) to[i] = Y(sum[i] * (scale * of_row[i]));
        }
      }
    });
  });
}

}  // namespace

void llm_int8(Stream& s, Tensor y, Tensor x, const quant::Weight& w, Tensor c) {
  quant::check_parts(w);
  check(w.format == quant::FormatId::int8 && x.shape.rank() == 2 && y.shape.rank() == 2 && x.shape[1] == w.shape[1] && y.shape == Shape{x.shape[0], w.shape[0]},
        "llm_int8: x (T, K), w (N, K) of int8, y (T, N)");
  check(!c || (c.shape == y.shape && c.dtype == y.dtype), "llm_int8: c like y");
  const int64_t tokens = x.shape[0], columns = x.shape[1], rows = w.shape[0], cap = outlier_cap(columns);
  const Scope scope(s.arena);
  const auto make = [&](const char* name, DType type, Shape shape) { return s.scratch(name, type, shape); };
  const Int8Product p{.x = x, .w = w,
                      .column_most = make("largest of columns", DType::f32, {columns}), .threshold = make("outlier threshold", DType::f32, {1}),
                      .columns = make("outlier columns", DType::i32, {cap}), .found = make("number of outlier columns", DType::i32, {1}),
                      .codes = make("activation codes", x.dtype, x.shape), .row_scales = make("activation scales", DType::f32, {tokens}),
                      .x_outliers = make("activation outliers", x.dtype, {tokens, cap}),
                      .w_codes = make("weight codes", x.dtype, w.shape), .w_outliers = make("weight of outliers", x.dtype, {rows, cap})};
  const auto each = [&](auto&& f) { visit_float(x.dtype, f); };
  launch(s, {.name = "int8 outliers", .bytes = double(x.bytes())}, [&] { each([&]<class T>(T) { find_outliers<T>(p); }); },
         [&](auto& cuda) { find_outliers_cuda(cuda, p); });
  launch(s, {.name = "int8 activations", .bytes = double(x.bytes() + p.codes.bytes())}, [&] { each([&]<class T>(T) { round_rows<T>(p); }); },
         [&](auto& cuda) { round_rows_cuda(cuda, p); });
  launch(s, {.name = "int8 codes", .bytes = double(quant::bytes_of(w) + p.w_codes.bytes())}, [&] { each([&]<class T>(T) { widen_codes<T>(p); }); },
         [&](auto& cuda) { widen_codes_cuda(cuda, p); });
  const bool in_place = y.dtype == DType::f32 && !c;
  const Tensor sums = in_place ? Tensor{} : make("sums of codes", DType::f32, {std::min(tokens, tokens_at_once), rows});
  for (int64_t t = 0; t < tokens; t += tokens_at_once) {
    const int64_t n = std::min(tokens_at_once, tokens - t);
    const Tensor to = y.rows(t, n), some = in_place ? to : sums.rows(0, n), scales = p.row_scales.rows(t, n), plus = c ? c.rows(t, n) : Tensor{};
    matmul(s, {.y = some, .a = p.codes.rows(t, n), .b = p.w_codes, .tb = Trans::yes, .name = "int8 product"});
    launch(s, {.name = "int8 scales", .bytes = double(some.bytes() + to.bytes() * (c ? 2 : 1))}, [&] { scale_sums(to, some, scales, w.parts[1], plus); },
           [&](auto& cuda) { scale_sums_cuda(cuda, to, some, scales, w.parts[1], plus); });
  }
  matmul(s, {.y = y, .a = p.x_outliers, .b = p.w_outliers, .tb = Trans::yes, .c = y, .used = p.found, .name = "int8 outlier product"});
}

}  // namespace thimble::ops
