// Root-mean-square norm on the cpu: tokens in parallel; dw is summed by channels, over blocks of tokens in order.
#include "ops/rms_norm.h"

#include <cmath>

#include "base/threads.h"
#include "ops/vector_math.h"

namespace thimble::ops {

// rms_norm.cu; CudaContext completes there
void rms_norm_cuda(CudaContext&, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps, float offset, Tensor plus);
void rms_norm_backward_cuda(CudaContext&, Tensor dx, Tensor dw, Tensor partial, Tensor dy, Tensor x, Tensor w, Tensor rstd, float offset);

namespace {

constexpr int64_t cuda_partials = 256;  // rows of partial sums of dw on cuda: blocks of tokens, whatever the processor count
constexpr int64_t token_block = 64;     // tokens of dw that are summed before they join the total

void check_norm(Tensor y, Tensor x, Tensor w, Tensor rstd) {
  check(x.shape.rank() == 2 && y.shape == x.shape && y.dtype == x.dtype, "rms_norm: x and y are (T, C) of one type");
  check(w.shape == Shape{x.shape[1]}, "rms_norm: w is (C)");
  check(rstd.dtype == DType::f32 && rstd.shape == Shape{x.shape[0]}, "rms_norm: rstd is (T) f32");
}

int64_t grain(int64_t channels) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, channels)); }

template <class X>
float reciprocal_rms(const X* x, int64_t channels, float eps) {
  Floats squares{};
  each_vector(channels, [&](int64_t c, auto n) {
    const Floats a = load(x + c, n);
    squares += a * a;
  });
  return 1.0f / std::sqrt(sum(squares) / float(channels) + eps);
}

template <class X, class W>
void scale_row(X* y, const X* x, const W* w, const X* plus, float offset, float rstd, int64_t channels) {
  each_vector(channels, [&](int64_t c, auto n) {
    store(y + c, load(x + c, n) * rstd * (load(w + c, n) + offset), n);
    if (plus) store(y + c, load(y + c, n) + load(plus + c, n), n);
  });
}

template <class X, class W>
void backward_row(X* dx, const X* dy, const X* x, const W* w, float offset, float rstd, int64_t channels) {
  Floats products{};
  each_vector(channels, [&](int64_t c, auto n) { products += load(dy + c, n) * (load(w + c, n) + offset) * load(x + c, n); });
  const float along = sum(products) / float(channels) * rstd * rstd;
  each_vector(channels, [&](int64_t c, auto n) {
    const Floats d = rstd * (load(dy + c, n) * (load(w + c, n) + offset) - load(x + c, n) * along);
    store(dx + c, load(dx + c, n) + d, n);
  });
}

template <class X>
void backward_weight(float* dw, const X* dy, const X* x, const float* rstd, int64_t tokens, int64_t channels) {
  parallel_for((channels + lanes - 1) / lanes, 4, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * lanes;
    each_vector(std::min(end * lanes, channels) - first, [&](int64_t i, auto n) {
      const int64_t c = first + i;
      Floats total{};
      for (int64_t block = 0; block < tokens; block += token_block) {
        Floats part{};
        for (int64_t t = block; t < std::min(tokens, block + token_block); ++t)
          part += load(dy + t * channels + c, n) * load(x + t * channels + c, n) * rstd[t];
        total += part;
      }
      store(dw + c, load(dw + c, n) + total, n);
    });
  });
}

// f(X{}, W{}) for the types of the activations and of the weight.
template <class F>
void visit(Tensor x, Tensor w, F&& f) {
  visit_float(x.dtype, [&](auto a) { visit_float(w.dtype, [&](auto b) { f(a, b); }); });
}

}  // namespace

void rms_norm(Stream& s, Tensor y, Tensor rstd, Tensor x, Tensor w, float eps, float offset, Tensor plus) {
  check_norm(y, x, w, rstd);
  check(!plus || (plus.shape == x.shape && plus.dtype == x.dtype), "rms_norm: plus is as x, or null");
  check(!plus || plus.data != y.data, "rms_norm: plus is not y");
  const int64_t tokens = x.shape[0], channels = x.shape[1];
  const Work work{.name = "rms_norm", .flops = 4.0 * double(x.count()), .bytes = double((plus ? 3 : 2) * x.bytes() + w.bytes() + rstd.bytes())};
  launch(
      s, work,
      [&] {
        visit(x, w, [&]<class X, class W>(X, W) {
          parallel_for(tokens, grain(channels), [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; ++t) {
              const X* row = x.get<X>() + t * channels;
              const float r = rstd.get<float>()[t] = reciprocal_rms(row, channels, eps);
              scale_row(y.get<X>() + t * channels, row, w.get<W>(), plus ? plus.get<X>() + t * channels : nullptr, offset, r, channels);
            }
          });
        });
      },
      [&](auto& cuda) { rms_norm_cuda(cuda, y, rstd, x, w, eps, offset, plus); });
}

void rms_norm_backward(Stream& s, Tensor dx, Tensor dw, Tensor dy, Tensor x, Tensor w, Tensor rstd, float offset) {
  check_norm(dy, x, w, rstd);
  check(dx.shape == x.shape && dx.dtype == x.dtype, "rms_norm_backward: dx is as x");
  check(!dw || (dw.dtype == DType::f32 && dw.shape == w.shape), "rms_norm_backward: dw is (C) f32, or null");
  const int64_t tokens = x.shape[0], channels = x.shape[1];
  const Scope scope(s.arena);
  Tensor partial;
  if (dw && s.device.kind() == DeviceKind::cuda)
    partial = s.scratch("norm gradient parts", DType::f32, {std::min(tokens, cuda_partials), channels});
  const Work work{.name = "rms_norm_backward", .flops = (dw ? 12.0 : 9.0) * double(x.count()),
                  .bytes = double(4 * x.bytes() + w.bytes() + rstd.bytes() + (dw ? 2 * dw.bytes() : 0))};
  launch(
      s, work,
      [&] {
        visit(x, w, [&]<class X, class W>(X, W) {
          parallel_for(tokens, grain(channels), [&](int64_t begin, int64_t end) {
            for (int64_t t = begin; t < end; ++t) {
              const int64_t row = t * channels;
              backward_row(dx.get<X>() + row, dy.get<X>() + row, x.get<X>() + row, w.get<W>(), offset, rstd.get<float>()[t], channels);
            }
          });
          if (dw) backward_weight(dw.get<float>(), dy.get<X>(), x.get<X>(), rstd.get<float>(), tokens, channels);
        });
      },
      [&](auto& cuda) { rms_norm_backward_cuda(cuda, dx, dw, partial, dy, x, w, rstd, offset); });
}

}  // namespace thimble::ops
