// Four passes around two matrix products; what they exchange lies in scratch whose size the shapes alone decide.
#include "ops/llm_int8.h"

#include <cmath>

#include "base/threads.h"
#include "ops/llm_int8_parts.h"
#include "ops/matmul.h"
#include "ops/vector_math.h"
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

template <class T, class Code>
void round_rows(const Int8Product& p) {
  const int64_t columns = p.x.shape[1], cap = p.columns.count(), found = *p.found.get<int32_t>();
  const float threshold = *p.threshold.get<float>();
  const int32_t* outliers = p.columns.get<int32_t>();
  parallel_for(p.x.shape[0], 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = p.x.get<T>() + row * columns;
      Code* codes = p.codes.get<Code>() + row * columns;
      float most = 0, nothing = 0;  // nothing: NaN where x has one, which no code can be
#pragma omp simd reduction(max : most) reduction(+ : nothing)
      for (int64_t k = 0; k < columns; ++k) {
        const float v = std::abs(quant::as_f16(float(x[k])));
        most = std::max(most, v < threshold ? v : 0.0f);
        nothing += v * 0.0f;
      }
      p.row_scales.get<float>()[row] = most + nothing;
      const float scale = most > 0 ? quant::int8_top / most : 0.0f;
#pragma omp simd
      for (int64_t k = 0; k < columns; ++k) codes[k] = Code(std::min(quant::int8_top, std::max(-quant::int8_top, std::nearbyint(quant::as_f16(float(x[k])) * scale))));
      for (int64_t j = 0; j < found; ++j) {
        p.x_outliers.get<T>()[row * cap + j] = x[outliers[j]];
        codes[outliers[j]] = Code(0.0f);
      }
    }
  });
}

// Of codes that are multiplied as they are, outliers alone are widened.
template <class T>
void widen_codes(const Int8Product& p) {
  const bool all = p.w_codes.dtype != DType::i8;
  const int64_t columns = p.x.shape[1], cap = p.columns.count(), found = *p.found.get<int32_t>();
  const int32_t* outliers = p.columns.get<int32_t>();
  parallel_for(p.w_codes.shape[0], 8, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int8_t* from = p.w.parts[0].get<int8_t>() + row * columns;
      if (all) {
        T* to = p.w_codes.get<T>() + row * columns;
#pragma omp simd
        for (int64_t k = 0; k < columns; ++k) to[k] = T(float(from[k]));
      }
      const float scale = p.w.parts[1].get<float>()[row] * quant::int8_step;
      for (int64_t j = 0; j < found; ++j) p.w_outliers.get<T>()[row * cap + j] = T(float(from[outliers[j]]) * scale);
    }
  });
}

template <class Sum, class Y>
void scale_sums(Y* y, const Sum* sums, const float* row_scales, const float* absmax, const Y* c, int64_t rows, int64_t n) {
  parallel_for(rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float scale = row_scales[row] * sum_step;
      each_vector(n, [&](int64_t i, auto count) {
        Floats v = load(sums + row * n + i, count) * (scale * load(absmax + i, count));
        if (c) v += load(c + row * n + i, count);
        store(y + row * n + i, v, count);
      });
    }
  });
}

void scale_sums(Tensor y, Tensor sums, Tensor row_scales, Tensor absmax, Tensor c) {
  visit_float(y.dtype, [&]<class Y>(Y) {
    const auto go = [&]<class Sum>(const Sum* of) {
      scale_sums(y.get<Y>(), of, row_scales.get<float>(), absmax.get<float>(), c ? c.get<Y>() : nullptr, y.shape[0], y.shape[1]);
    };
    sums.dtype == DType::i32 ? go(sums.get<int32_t>()) : go(sums.get<float>());
  });
}

}  // namespace

void llm_int8(Stream& s, Tensor y, Tensor x, const quant::Weight& w, Tensor c) {
  quant::check_parts(w);
  check(w.format == quant::FormatId::int8 && x.shape.rank() == 2 && y.shape.rank() == 2 && x.shape[1] == w.shape[1] && y.shape == Shape{x.shape[0], w.shape[0]},
        "llm_int8: x (T, K), w (N, K) of int8, y (T, N)");
  check(!c || (c.shape == y.shape && c.dtype == y.dtype), "llm_int8: c like y");
  const int64_t tokens = x.shape[0], columns = x.shape[1], rows = w.shape[0], cap = outlier_cap(columns);
  const bool exact = s.device.spec().sums_int8;
  const DType code = exact ? DType::i8 : x.dtype;
  const Scope scope(s.arena);
  const auto make = [&](const char* name, DType type, Shape shape) { return s.scratch(name, type, shape); };
  const Int8Product p{.x = x, .w = w,
                      .column_most = make("largest of columns", DType::f32, {columns}), .threshold = make("outlier threshold", DType::f32, {1}),
                      .columns = make("outlier columns", DType::i32, {cap}), .found = make("number of outlier columns", DType::i32, {1}),
                      .codes = make("activation codes", code, x.shape), .row_scales = make("activation scales", DType::f32, {tokens}),
                      .x_outliers = make("activation outliers", x.dtype, {tokens, cap}),
                      .w_codes = exact ? w.parts[0] : make("weight codes", code, w.shape), .w_outliers = make("weight of outliers", x.dtype, {rows, cap})};
  const auto each = [&](auto&& f) { visit_float(x.dtype, f); };
  launch(s, {.name = "int8 outliers", .bytes = double(x.bytes())}, [&] { each([&]<class T>(T) { find_outliers<T>(p); }); },
         [&](auto& cuda) { find_outliers_cuda(cuda, p); });
  launch(s, {.name = "int8 activations", .bytes = double(x.bytes() + p.codes.bytes())}, [&] { each([&]<class T>(T) { exact ? round_rows<T, int8_t>(p) : round_rows<T, T>(p); }); },
         [&](auto& cuda) { round_rows_cuda(cuda, p); });
  launch(s, {.name = "int8 codes", .bytes = exact ? double(p.w_outliers.bytes()) : double(quant::bytes_of(w) + p.w_codes.bytes())}, [&] { each([&]<class T>(T) { widen_codes<T>(p); }); },
         [&](auto& cuda) { widen_codes_cuda(cuda, p); });
  const bool in_place = y.dtype == DType::f32 && !c && !exact;
  const Tensor sums = in_place ? Tensor{} : make("sums of codes", exact ? DType::i32 : DType::f32, {std::min(tokens, tokens_at_once), rows});
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
