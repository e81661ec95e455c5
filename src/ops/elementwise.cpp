// The plain ops on the cpu. The sum of squares is cut into blocks of fixed size, whose sums are added in order.
#include "ops/elementwise.h"

#include <cstring>

#include "ops/vector_math.h"

namespace thimble::ops {

void zero_cuda(CudaContext&, Tensor y);  // elementwise.cu
void convert_cuda(CudaContext&, Tensor y, Tensor x);
void add_cuda(CudaContext&, Tensor y, Tensor x);
void scale_cuda(CudaContext&, Tensor y, float factor);
void soft_cap_cuda(CudaContext&, Tensor y, float cap);
void sum_of_squares_cuda(CudaContext&, Tensor sum, Tensor parts, Tensor x);

namespace {

constexpr int64_t grain = 1024;          // vectors
constexpr int64_t sum_block = 4096;      // elements whose squares are summed in float lanes
constexpr int64_t blocks_at_once = 512;  // blocks between two meetings of the threads
constexpr int64_t cuda_stripes = 1024;   // of the sum of squares on cuda

double squares_of_block(const float* x, int64_t n) {
  Floats even{}, odd{};
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const Floats a = load(x + i), b = load(x + i + lanes);
    even += a * a;
    odd += b * b;
  }
  each_vector(n - i, [&](int64_t j, auto count) {
    const Floats a = load(x + i + j, count);
    even += a * a;
  });
  double total = 0;
  float part[lanes];
  store(part, even + odd);
  for (const float p : part) total += double(p);
  return total;
}

}  // namespace

void zero(Stream& s, Tensor y) {
  launch(
      s, {.name = "zero", .bytes = double(y.bytes())},
      [&] {
        parallel_for(y.bytes(), 1 << 18, [&](int64_t begin, int64_t end) {
          std::memset(static_cast<std::byte*>(y.data) + begin, 0, size_t(end - begin));
        });
      },
      [&](auto& cuda) { zero_cuda(cuda, y); });
}

void convert(Stream& s, Tensor y, Tensor x) {
  check(y.count() == x.count(), "convert: x and y have as many elements");
  launch(
      s, {.name = "convert", .bytes = double(y.bytes() + x.bytes())},
      [&] {
        visit_float(y.dtype, [&]<class Y>(Y) {
          visit_float(x.dtype, [&]<class X>(X) {
            each_vector_parallel(x.count(), grain, [&](int64_t i, auto n) { store(y.get<Y>() + i, load(x.get<X>() + i, n), n); });
          });
        });
      },
      [&](auto& cuda) { convert_cuda(cuda, y, x); });
}

void add(Stream& s, Tensor y, Tensor x) {
  check(y.shape == x.shape && y.dtype == x.dtype, "add: x and y are of one shape and type");
  launch(
      s, {.name = "add", .flops = double(y.count()), .bytes = double(2 * y.bytes() + x.bytes())},
      [&] {
        visit_float(y.dtype, [&]<class Y>(Y) {
          Y* to = y.get<Y>();
          const Y* from = x.get<Y>();
          each_vector_parallel(y.count(), grain, [&](int64_t i, auto n) { store(to + i, load(to + i, n) + load(from + i, n), n); });
        });
      },
      [&](auto& cuda) { add_cuda(cuda, y, x); });
}

void scale(Stream& s, Tensor y, float factor) {
  launch(
      s, {.name = "scale", .flops = double(y.count()), .bytes = double(2 * y.bytes())},
      [&] {
        visit_float(y.dtype, [&]<class Y>(Y) {
          each_vector_parallel(y.count(), grain, [&](int64_t i, auto n) { store(y.get<Y>() + i, factor * load(y.get<Y>() + i, n), n); });
        });
      },
      [&](auto& cuda) { scale_cuda(cuda, y, factor); });
}

void soft_cap(Stream& s, Tensor y, float cap) {
  check(cap > 0, "soft_cap: a cap is positive");
  launch(
      s, {.name = "soft_cap", .flops = 8.0 * double(y.count()), .bytes = double(2 * y.bytes())},
      [&] {
        visit_float(y.dtype, [&]<class Y>(Y) {
          each_vector_parallel(y.count(), grain, [&](int64_t i, auto n) { store(y.get<Y>() + i, cap * tanh(load(y.get<Y>() + i, n) / cap), n); });
        });
      },
      [&](auto& cuda) { soft_cap_cuda(cuda, y, cap); });
}

void sum_of_squares(Stream& s, Tensor sum, Tensor x) {
  check(sum.dtype == DType::f32 && sum.count() == 1, "sum_of_squares: sum is (1) f32");
  check(x.dtype == DType::f32, "sum_of_squares: x is f32");
  const Scope scope(s.arena);
  const Tensor parts = s.device.kind() == DeviceKind::cuda ? s.scratch("sums of stripes", DType::u8, {cuda_stripes * int64_t{sizeof(double)}}) : Tensor{};
  launch(
      s, {.name = "sum_of_squares", .flops = 2.0 * double(x.count()), .bytes = double(x.bytes())},
      [&] {
        const int64_t blocks = (x.count() + sum_block - 1) / sum_block;
        double total = 0, part[blocks_at_once];
        for (int64_t first = 0; first < blocks; first += blocks_at_once) {
          const int64_t n = std::min(blocks_at_once, blocks - first);
          parallel_for(n, 8, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b) {
              const int64_t at = (first + b) * sum_block;
              part[b] = squares_of_block(x.get<float>() + at, std::min(sum_block, x.count() - at));
            }
          });
          for (int64_t b = 0; b < n; ++b) total += part[b];
        }
        *sum.get<float>() += float(total);
      },
      [&](auto& cuda) { sum_of_squares_cuda(cuda, sum, parts, x); });
}

}  // namespace thimble::ops
