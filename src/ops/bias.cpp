// Bias on the cpu: rows in parallel forward; channels in parallel backward, over blocks of tokens in order.
#include "ops/bias.h"

#include "ops/vector_math.h"

namespace thimble::ops {

void add_bias_cuda(CudaContext&, Tensor y, Tensor b);  // bias.cu
void add_bias_backward_cuda(CudaContext&, Tensor db, Tensor partial, Tensor dy);

namespace {

constexpr int64_t token_block = 64;     // tokens that are summed before they join the total
constexpr int64_t cuda_partials = 256;  // rows of partial sums on cuda: blocks of tokens, whatever the processor count

}  // namespace

void add_bias(Stream& s, Tensor y, Tensor b) {
  check(y.shape.rank() == 2 && b.shape == Shape{y.shape[1]}, "add_bias: y is (T, N), b is (N)");
  const int64_t tokens = y.shape[0], channels = y.shape[1];
  launch(
      s, {.name = "add_bias", .flops = double(y.count()), .bytes = double(2 * y.bytes() + b.bytes())},
      [&] {
        visit_float(y.dtype, [&]<class Y>(Y) {
          visit_float(b.dtype, [&]<class B>(B) {
            parallel_for(tokens, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, channels)), [&](int64_t begin, int64_t end) {
              for (int64_t t = begin; t < end; ++t) {
                Y* row = y.get<Y>() + t * channels;
                each_vector(channels, [&](int64_t c, auto n) { store(row + c, load(row + c, n) + load(b.get<B>() + c, n), n); });
              }
            });
          });
        });
      },
      [&](auto& cuda) { add_bias_cuda(cuda, y, b); });
}

void add_bias_backward(Stream& s, Tensor db, Tensor dy) {
  check(dy.shape.rank() == 2 && db.dtype == DType::f32 && db.shape == Shape{dy.shape[1]}, "add_bias_backward: dy is (T, N), db is (N) f32");
  const int64_t tokens = dy.shape[0], channels = dy.shape[1];
  const Scope scope(s.arena);
  Tensor partial;
  if (s.device.kind() == DeviceKind::cuda) partial = s.scratch("bias gradient parts", DType::f32, {std::min(tokens, cuda_partials), channels});
  launch(
      s, {.name = "add_bias_backward", .flops = double(dy.count()), .bytes = double(dy.bytes() + 2 * db.bytes())},
      [&] {
        visit_float(dy.dtype, [&]<class Y>(Y) {
          each_vector_parallel(channels, 4, [&](int64_t c, auto n) {
            Floats total{};
            for (int64_t block = 0; block < tokens; block += token_block) {
              Floats part{};
              for (int64_t t = block; t < std::min(tokens, block + token_block); ++t) part += load(dy.get<Y>() + t * channels + c, n);
              total += part;
            }
            store(db.get<float>() + c, load(db.get<float>() + c, n) + total, n);
          });
        });
      },
      [&](auto& cuda) { add_bias_backward_cuda(cuda, db, partial, dy); });
}

}  // namespace thimble::ops
