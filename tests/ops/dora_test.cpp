// DoRA's parts against float64: norms without the matrix w + s B A, the scaling, and the gradient of the magnitudes.
#include "ops/dora.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

struct Case { int64_t tokens, out, in, rank; float scale; };
constexpr Case cases[] = {{1, 1, 1, 1, 1}, {3, 17, 65, 4, 2}, {5, 7, 33, 16, 0.5f}, {65, 130, 48, 3, -1.25f}};

TEST(Dora, NormsAreThoseOfTheSum) {
  for (const Case& c : cases)
    for (const auto& [w_type, t] : {std::pair{DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}}) {
      SCOPED_TRACE(label(t) + " " + std::to_string(c.out) + " x " + std::to_string(c.in));
      World world;
      const quant::Weight w{.format = quant::FormatId::dense, .shape = {c.out, c.in}, .parts = {world.normal(w_type, {c.out, c.in}, 1)}};
      const Tensor a = world.normal(t, {c.rank, c.in}, 2, 0.3), b = world.normal(t, {c.out, c.rank}, 3, 0.3), squares = world.empty(DType::f32, {c.out}), norm = world.empty(DType::f32, {c.out});
      row_squares(world, squares, w, t);
      dora_norm(world, norm, squares, w, a, b, c.scale);
      const Numbers wv = world.read(w.dense()), av = world.read(a), bv = world.read(b);
      Numbers expected(static_cast<size_t>(c.out)), plain(static_cast<size_t>(c.out));
      for (int64_t n = 0; n < c.out; ++n) {
        double sum = 0, own = 0;
        for (int64_t k = 0; k < c.in; ++k) {
          double x = wv[size_t(n * c.in + k)];
          own += x * x;
          for (int64_t r = 0; r < c.rank; ++r) x += double(c.scale) * bv[size_t(n * c.rank + r)] * av[size_t(r * c.in + k)];
          sum += x * x;
        }
        expected[size_t(n)] = std::sqrt(sum), plain[size_t(n)] = own;
      }
      EXPECT_LE(relative_error(world.read(squares), plain), 2e-6);
      EXPECT_LE(relative_error(world.read(norm), expected), t == DType::f32 ? 5e-6 : 1e-2);
    }
}

TEST(Dora, ScaleAndItsGradients) {
  for (const Case& c : cases)
    for (const DType t : {DType::f32, DType::bf16}) {
      World world;
      const Shape shape{c.tokens, c.out};
      const Tensor x = world.normal(t, shape, 1), y = world.empty(t, shape), magnitude = world.normal(DType::f32, {c.out}, 2), norm = world.normal(DType::f32, {c.out}, 3, 0.1, 2),
                   dy = world.normal(t, shape, 4), d_magnitude = world.normal(DType::f32, {c.out}, 5);
      const Numbers xv = world.read(x), m = world.read(magnitude), n = world.read(norm), dyv = world.read(dy);
      Numbers scaled(xv.size()), gradient = world.read(d_magnitude);
      for (size_t i = 0; i < xv.size(); ++i) {
        const size_t channel = i % size_t(c.out);
        scaled[i] = xv[i] * m[channel] / n[channel];
        gradient[channel] += dyv[i] * xv[i] / n[channel];  // of magnitude * (x / norm)
      }
      dora_scale(world, y, x, magnitude, norm);
      EXPECT_LE(relative_error(world.read(y), scaled), tolerance(t));
      dora_magnitude_backward(world, d_magnitude, x, dy, norm);
      EXPECT_LE(relative_error(world.read(d_magnitude), gradient), t == DType::f32 ? 5e-6 : 1e-2);
    }
}

TEST(Dora, PhantomAndThreads) {
  const auto calls = [](World& world) {
    const quant::Weight w{.format = quant::FormatId::dense, .shape = {130, 1500}, .parts = {world.normal(DType::f32, {130, 1500}, 1)}};
    const Tensor a = world.normal(DType::f32, {4, 1500}, 2), b = world.normal(DType::f32, {130, 4}, 3), squares = world.empty(DType::f32, {130}), norm = world.empty(DType::f32, {130}),
                 y = world.normal(DType::f32, {33, 130}, 4), dy = world.normal(DType::f32, {33, 130}, 5), d = world.filled(DType::f32, {130}, 0);
    row_squares(world, squares, w, DType::f32);
    dora_norm(world, norm, squares, w, a, b, 2);
    dora_scale(world, y, y, squares, norm);
    dora_magnitude_backward(world, d, y, dy, norm);
    return std::vector<Tensor>{squares, norm, y, d};
  };
  expect_phantom_agrees(calls);
  expect_threads_change_nothing(calls);
}

}  // namespace
}  // namespace thimble::ops
