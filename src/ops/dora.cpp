// Sums of a row's squares go through f32 lanes in blocks, whose sums are added in double and in order.
#include "ops/dora.h"

#include <cmath>

#include "ops/bias.h"
#include "ops/linear.h"
#include "ops/vector_math.h"

namespace thimble::ops {

void row_squares_cuda(CudaContext&, Tensor squares, Tensor w);  // dora.cu
void dora_norm_cuda(CudaContext&, Tensor norm, Tensor squares, Tensor wa, Tensor aa, Tensor b, float scale);
void dora_scale_cuda(CudaContext&, Tensor y, Tensor x, Tensor magnitude, Tensor norm);
void dora_products_cuda(CudaContext&, Tensor z, Tensor dy, Tensor norm);

namespace {

constexpr int64_t block = 1024;  // elements of a row that are summed in float lanes

template <class W>
double squares_of(const W* row, int64_t n) {
  double total = 0;
  for (int64_t first = 0; first < n; first += block) {
    Floats sum{};
    each_vector(std::min(block, n - first), [&](int64_t i, auto count) {
      const Floats x = load(row + first + i, count);
      sum += x * x;
    });
    float parts[lanes];
    store(parts, sum);
    for (const float p : parts) total += double(p);
  }
  return total;
}

// f(row of y, rows of the others) for each token, in parallel; all (T, N).
template <class F>
void each_token(int64_t tokens, int64_t channels, F&& f) {
  parallel_for(tokens, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, channels)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(t * channels);
  });
}

bool is_channels(const Tensor& t, int64_t n) { return t.dtype == DType::f32 && t.shape == Shape{n}; }

}  // namespace

void row_squares(Stream& s, Tensor squares, const quant::Weight& w, DType type) {
  check(w.shape.rank() == 2 && is_channels(squares, w.shape[0]), "row_squares: w is (N, K), squares (N) f32");
  const Scope scope(s.arena);
  Tensor dense = w.dense();
  if (w.format != quant::FormatId::dense) {
    dense = s.scratch("unpacked weight", type, w.shape);
    quant::format(w.format).unpack(s, dense, w);
  }
  const int64_t rows = w.shape[0], n = w.shape[1];
  launch(
      s, {.name = "row_squares", .flops = 2.0 * double(dense.count()), .bytes = double(dense.bytes() + squares.bytes())},
      [&] {
        visit_float(dense.dtype, [&]<class W>(W) {
          parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) squares.get<float>()[r] = float(squares_of(dense.get<W>() + r * n, n));
          });
        });
      },
      [&](auto& cuda) { row_squares_cuda(cuda, squares, dense); });
}

void dora_norm(Stream& s, Tensor norm, Tensor squares, const quant::Weight& w, Tensor a, Tensor b, float scale) {
  check(a.shape.rank() == 2 && b.shape.rank() == 2, "dora_norm: a and b are matrices");
  const int64_t n = b.shape[0], rank = b.shape[1];
  check(is_channels(norm, n) && is_channels(squares, n) && w.shape == Shape({n, a.shape[1]}) && a.shape[0] == rank,
        "dora_norm: norm and squares (N) f32, w (N, K), a (R, K), b (N, R)");
  const Scope scope(s.arena);
  const Tensor wa = s.scratch("A of DoRA through the weight", a.dtype, {rank, n}), aa = s.scratch("A.A^T", DType::f32, {rank, rank});
  linear(s, wa, a, w);
  matmul(s, {.y = aa, .a = a, .b = a, .tb = Trans::yes, .name = "dora A.A^T"});
  launch(
      s, {.name = "dora_norm", .flops = 2.0 * double(n * rank * (rank + 2)), .bytes = double(wa.bytes() + b.bytes() + aa.bytes() + 2 * norm.bytes())},
      [&] {
        visit_float(b.dtype, [&]<class B>(B) {
          parallel_for(n, 64, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              const B* row = b.get<B>() + i * rank;
              double across = 0, own = 0;
              for (int64_t r = 0; r < rank; ++r) {
                double sum = 0;
                for (int64_t q = 0; q < rank; ++q) sum += double(aa.get<float>()[r * rank + q]) * double(float(row[q]));
                own += sum * double(float(row[r]));
                across += double(float(wa.get<B>()[r * n + i])) * double(float(row[r]));
              }
              const double square = double(squares.get<float>()[i]) + 2.0 * double(scale) * across + double(scale) * double(scale) * own;
              norm.get<float>()[i] = float(std::sqrt(std::max(square, 0.0)));
            }
          });
        });
      },
      [&](auto& cuda) { dora_norm_cuda(cuda, norm, squares, wa, aa, b, scale); });
}

void dora_scale(Stream& s, Tensor y, Tensor x, Tensor magnitude, Tensor norm) {
  check(x.shape.rank() == 2 && y.shape == x.shape && y.dtype == x.dtype && is_channels(magnitude, x.shape[1]) && is_channels(norm, x.shape[1]),
        "dora_scale: x and y (T, N) of one type, magnitude and norm (N) f32");
  const int64_t channels = x.shape[1];
  launch(
      s, {.name = "dora_scale", .flops = 2.0 * double(x.count()), .bytes = double(y.bytes() + x.bytes())},
      [&] {
        visit_float(x.dtype, [&]<class X>(X) {
          each_token(x.shape[0], channels, [&](int64_t first) {
            each_vector(channels, [&](int64_t c, auto n) {
              const Floats factor = load(magnitude.get<float>() + c, n) / load(norm.get<float>() + c, n);
              store(y.get<X>() + first + c, load(x.get<X>() + first + c, n) * factor, n);
            });
          });
        });
      },
      [&](auto& cuda) { dora_scale_cuda(cuda, y, x, magnitude, norm); });
}

void dora_magnitude_backward(Stream& s, Tensor d_magnitude, Tensor z, Tensor dy, Tensor norm) {
  check(z.shape.rank() == 2 && dy.shape == z.shape && dy.dtype == z.dtype && is_channels(d_magnitude, z.shape[1]) && is_channels(norm, z.shape[1]),
        "dora_magnitude_backward: z and dy (T, N) of one type, d_magnitude and norm (N) f32");
  const int64_t channels = z.shape[1];
  launch(
      s, {.name = "dora_products", .flops = 2.0 * double(z.count()), .bytes = double(2 * z.bytes() + dy.bytes())},
      [&] {
        visit_float(z.dtype, [&]<class X>(X) {
          each_token(z.shape[0], channels, [&](int64_t first) {
            each_vector(channels, [&](int64_t c, auto n) {
              X* at = z.get<X>() + first + c;
              store(at, load(at, n) * load(dy.get<X>() + first + c, n) / load(norm.get<float>() + c, n), n);
            });
          });
        });
      },
      [&](auto& cuda) { dora_products_cuda(cuda, z, dy, norm); });
  add_bias_backward(s, d_magnitude, z);
}

}  // namespace thimble::ops
