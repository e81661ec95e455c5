// Four channels share a draw; rows go in parallel.
#include "ops/noise.h"

#include <algorithm>

#include "base/philox.h"
#include "ops/vector_math.h"

namespace thimble::ops {

void dropout_cuda(CudaContext&, Tensor y, Tensor x, Tensor c, float share, Tensor key, uint32_t place);  // noise.cu
void add_noise_cuda(CudaContext&, Tensor y, float size, Tensor key, uint32_t place);

namespace {

constexpr int64_t drawn_at_once = 4;
constexpr double flops_of_a_draw = 30;  // of one element: ten rounds for four

void check_key(const Drawn& d) { check(d.key.dtype == DType::i32 && d.key.count() == 4, "what is drawn has a key: (4) i32"); }

// f(first channel, channels, u[4]) for all of the rows of a (T, C) tensor.
template <class F>
void each_draw(const Tensor& like, const Drawn& d, F&& f) {
  const auto* key = d.key.get<int32_t>();
  const uint64_t seed = uint64_t(uint32_t(key[0])) | uint64_t(uint32_t(key[1])) << 32, stream = uint64_t(uint32_t(key[2])) << 32 | d.place;
  const int64_t channels = like.shape[1], packs = (channels + drawn_at_once - 1) / drawn_at_once;
  parallel_for(like.shape[0], std::max<int64_t>(1, 4096 / std::max<int64_t>(1, channels)), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t p = 0; p < packs; ++p) {
        const auto bits = philox(seed, stream, uint64_t((key[3] + t) * packs + p));
        const int64_t first = p * drawn_at_once, n = std::min(drawn_at_once, channels - first);
        for (int64_t i = 0; i < n; ++i) f(t * channels + first + i, to_unit(bits[size_t(i)]));
      }
  });
}

}  // namespace

void dropout(Stream& s, Tensor y, Tensor x, float share, const Drawn& d, Tensor c) {
  check(x.shape.rank() == 2 && y.shape == x.shape && y.dtype == x.dtype && (!c || (c.shape == x.shape && c.dtype == x.dtype)), "dropout: x, y and c are (T, C) of one type");
  check(share >= 0 && share < 1, "dropout leaves something");
  check_key(d);
  launch(
      s, {.name = "dropout", .flops = flops_of_a_draw * double(x.count()), .bytes = double(y.bytes() + x.bytes() + (c ? c.bytes() : 0))},
      [&] {
        const float factor = 1.0f / (1.0f - share);
        visit_float(x.dtype, [&]<class X>(X) {
          const X *from = x.get<X>(), *plus = c ? c.get<X>() : nullptr;
          X* to = y.get<X>();
          each_draw(x, d, [&](int64_t i, float u) { to[i] = X((u >= share ? float(from[i]) * factor : 0.0f) + (plus ? float(plus[i]) : 0.0f)); });
        });
      },
      [&](auto& cuda) { dropout_cuda(cuda, y, x, c, share, d.key, d.place); });
}

void add_noise(Stream& s, Tensor y, float size, const Drawn& d) {
  check(y.shape.rank() == 2, "add_noise: y is (T, C)");
  check_key(d);
  launch(
      s, {.name = "add_noise", .flops = flops_of_a_draw * double(y.count()), .bytes = double(2 * y.bytes())},
      [&] {
        visit_float(y.dtype, [&]<class Y>(Y) {
          Y* to = y.get<Y>();
          each_draw(y, d, [&](int64_t i, float u) { to[i] = Y(float(to[i]) + size * (2 * u - 1)); });
        });
      },
      [&](auto& cuda) { add_noise_cuda(cuda, y, size, d.key, d.place); });
}

}  // namespace thimble::ops
