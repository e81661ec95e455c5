// Rotary embedding against float64 turns; backward is the inverse turn, so it is the transpose of forward.
#include "ops/rope.h"

#include "ops/harness.h"
#include "ops/rms_norm.h"

namespace thimble::ops {
namespace {

using namespace test;

struct Case { int64_t tokens, heads, dim; float factor; int64_t pairs = 0; int64_t half() const { return pairs ? pairs : dim / 2; } };
constexpr Case cases[] = {{1, 1, 2, 1}, {17, 3, 6, 1}, {130, 2, 64, 1.25f}, {5, 9, 48, 1}, {3, 2, 256, 0.5f}, {2, 1, 320, 1}, {17, 3, 16, 1, 6}, {5, 2, 128, 1.5f, 48}};

struct Tensors { Tensor x, positions, inv_freq; };

Tensors inputs(World& world, const Case& c, DType t) {
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < c.tokens; ++i) positions.push_back(int32_t(i % 11 * 701));
  Numbers inv_freq;
  for (int64_t i = 0; i < c.half(); ++i) inv_freq.push_back(std::pow(10000.0, -2.0 * double(i) / double(c.dim)));
  return {world.normal(t, {c.tokens, c.heads, c.dim}, 1), world.ints(positions), world.from(DType::f32, {c.half()}, inv_freq)};
}

// The angle is a product in float, as in the reference implementations; its sine and cosine are exact here.
Numbers reference(const Numbers& x, const Numbers& positions, const Numbers& inv_freq, const Case& c, double direction) {
  Numbers y = x;  // channels beyond the pairs stay
  const int64_t half = c.half();
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t h = 0; h < c.heads; ++h)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(float(positions[size_t(t)]) * float(inv_freq[size_t(i)]));
        const double cosine = std::cos(angle) * double(c.factor), sine = std::sin(angle) * double(c.factor) * direction;
        const auto a = size_t((t * c.heads + h) * c.dim + i), b = a + size_t(half);
        y[a] = x[a] * cosine - x[b] * sine;
        y[b] = x[b] * cosine + x[a] * sine;
      }
  return y;
}

TEST(Rope, AgreesWithFloat64) {
  for (const Case& c : cases)
    for (const DType t : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(label(t) + " " + to_string(Shape{c.tokens, c.heads, c.dim}));
      World world;
      const Tensors v = inputs(world, c, t);
      const Numbers x = world.read(v.x), positions = world.read(v.positions), inv_freq = world.read(v.inv_freq);
      rope(world, {v.x}, v.positions, v.inv_freq, c.factor);
      EXPECT_LE(relative_error(world.read(v.x), reference(x, positions, inv_freq, c, 1)), tolerance(t));
      world.write(v.x, x);
      rope_backward(world, {v.x}, v.positions, v.inv_freq, c.factor);
      EXPECT_LE(relative_error(world.read(v.x), reference(x, positions, inv_freq, c, -1)), tolerance(t));
    }
}

TEST(Rope, GradientIsThatOfCentralDifferences) {
  for (const Case& c : {Case{3, 2, 6, 1.25f}, Case{3, 2, 10, 1.25f, 3}}) {
    World world;
    const Tensors v = inputs(world, c, DType::f32);
    Numbers x = world.read(v.x);
    const Numbers positions = world.read(v.positions), inv_freq = world.read(v.inv_freq);
    const Tensor d = world.normal(DType::f32, v.x.shape, 9);
    const Numbers dy = world.read(d);
    const Numbers dx = central_differences(x, [&] { return dot(dy, reference(x, positions, inv_freq, c, 1)); });
    rope_backward(world, {d}, v.positions, v.inv_freq, c.factor);
    EXPECT_LE(relative_error(world.read(d), dx), 2e-6);
  }
}

TEST(Rope, TwoTensorsTurnAsEachAlone) {
  for (const DType t : {DType::f32, DType::bf16}) {
    World world;
    const Tensors q = inputs(world, {7, 9, 64, 1}, t), k = inputs(world, {7, 2, 64, 1}, t);
    const Tensor q2 = world.from(t, q.x.shape, world.read(q.x)), k2 = world.from(t, k.x.shape, world.read(k.x));
    rope(world, {q.x}, q.positions, q.inv_freq);
    rope(world, {k.x}, q.positions, q.inv_freq);
    rope(world, {q2, k2}, q.positions, q.inv_freq);
    EXPECT_EQ(world.bytes(q2), world.bytes(q.x));
    EXPECT_EQ(world.bytes(k2), world.bytes(k.x));
  }
}

TEST(Rope, PhantomAndThreads) {
  const auto run = [](World& world) {
    const Tensors v = inputs(world, {130, 9, 64, 1}, DType::bf16);
    rope(world, {v.x}, v.positions, v.inv_freq);
    const Tensors back = inputs(world, {130, 3, 6, 1}, DType::f32);
    rope_backward(world, {back.x}, back.positions, back.inv_freq);
    return std::vector<Tensor>{v.x, back.x};
  };
  expect_phantom_agrees(run);
  expect_threads_change_nothing(run);
}

TEST(Rope, RefusesAnOddHeadAndMorePairsThanChannels) {
  World world(phantom_device({}));
  EXPECT_THROW(rope(world, {world.empty(DType::f32, {2, 1, 5})}, world.empty(DType::i32, {2}), world.empty(DType::f32, {2})), Error);
  EXPECT_THROW(rope(world, {world.empty(DType::f32, {2, 1, 6})}, world.empty(DType::i32, {2}), world.empty(DType::f32, {4})), Error);
}

TEST(Rope, OfNormedHeadsIsTheNormsAndThenTheTurn) {
  for (const Case& c : cases)
    for (const DType t : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(label(t) + " " + to_string(Shape{c.tokens, c.heads, c.dim}));
      World world;
      const Tensors q = inputs(world, c, t), k = inputs(world, {c.tokens, 1, c.dim, c.factor, c.pairs}, t);
      const Tensor q2 = world.from(t, q.x.shape, world.read(q.x)), k2 = world.from(t, k.x.shape, world.read(k.x));
      const HeadNorms norms{{world.normal(DType::f32, {c.dim}, 5, 0.3, 1), world.normal(DType::f32, {c.dim}, 6, 0.3, 1)}, 1e-5f, 0.5f};
      norm_and_rope(world, {q.x, k.x}, norms, q.positions, q.inv_freq, c.factor);
      const auto normed = [&](Tensor x, Tensor w) {
        const Tensor rows = x.view({x.count() / c.dim, c.dim});
        rms_norm(world, rows, world.empty(DType::f32, {rows.shape[0]}), rows, w, norms.eps, norms.offset);
        return world.read(x);
      };
      const Numbers positions = world.read(q.positions), inv_freq = world.read(q.inv_freq);
      EXPECT_LE(relative_error(world.read(q.x), reference(normed(q2, norms.weight[0]), positions, inv_freq, c, 1)), 2 * tolerance(t));
      EXPECT_LE(relative_error(world.read(k.x), reference(normed(k2, norms.weight[1]), positions, inv_freq, {c.tokens, 1, c.dim, c.factor, c.pairs}, 1)), 2 * tolerance(t));
    }
}

}  // namespace
}  // namespace thimble::ops
