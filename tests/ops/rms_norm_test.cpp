// RMS norm: forward and its gradient, against float64.
#include "ops/rms_norm.h"

#include "ops/elementwise.h"
#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

constexpr float eps = 1e-5f;
struct Case { int64_t tokens, channels; };
constexpr Case cases[] = {{1, 1}, {1, 64}, {17, 6}, {130, 48}, {5, 576}, {300, 37}};

Numbers reference(const Numbers& x, const Numbers& w, const Case& c, Numbers* rstd = nullptr) {
  Numbers y(x.size());
  for (int64_t t = 0; t < c.tokens; ++t) {
    double squares = 0;
    for (int64_t i = 0; i < c.channels; ++i) squares += x[size_t(t * c.channels + i)] * x[size_t(t * c.channels + i)];
    const double r = 1 / std::sqrt(squares / double(c.channels) + double(eps));
    if (rstd) rstd->push_back(r);
    for (int64_t i = 0; i < c.channels; ++i) y[size_t(t * c.channels + i)] = x[size_t(t * c.channels + i)] * r * w[size_t(i)];
  }
  return y;
}

struct Tensors { Tensor x, w, y, rstd, dy, dx, dw; };

Tensors run(World& world, const Case& c, DType t, DType weight, float offset = 0) {
  const Shape shape{c.tokens, c.channels};
  Tensors v{.x = world.normal(t, shape, 1, 2), .w = world.normal(weight, {c.channels}, 2, 0.3, 1), .y = world.empty(t, shape),
            .rstd = world.empty(DType::f32, {c.tokens}), .dy = world.normal(t, shape, 3), .dx = world.normal(t, shape, 4),
            .dw = world.normal(DType::f32, {c.channels}, 5)};
  rms_norm(world, v.y, v.rstd, v.x, v.w, eps, offset);
  rms_norm_backward(world, v.dx, v.dw, v.dy, v.x, v.w, v.rstd, offset);
  return v;
}

TEST(RmsNorm, AgreesWithFloat64) {
  for (const Case& c : cases)
    for (const DType t : {DType::f32, DType::bf16})
      for (const DType weight : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(label(t) + " w " + label(weight) + " " + to_string(Shape{c.tokens, c.channels}));
        World world;
        const Tensors v = run(world, c, t, weight);
        Numbers rstd;
        EXPECT_LE(relative_error(world.read(v.y), reference(world.read(v.x), world.read(v.w), c, &rstd)), tolerance(t));
        EXPECT_LE(relative_error(world.read(v.rstd), rstd), 1e-6);
      }
}

TEST(RmsNorm, GradientIsThatOfCentralDifferences) {
  for (const Case& c : {Case{1, 1}, Case{2, 6}, Case{3, 48}, Case{70, 5}})
    for (const DType t : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(label(t) + " " + to_string(Shape{c.tokens, c.channels}));
      World world;
      const Tensors v = run(world, c, t, DType::f32);
      World before;  // what dx and dw held: the gradient is added to it
      Numbers x = world.read(v.x), w = world.read(v.w);
      const Numbers old_dx = before.read(before.normal(t, v.dx.shape, 4)), old_dw = before.read(before.normal(DType::f32, v.dw.shape, 5));
      const Numbers dy = world.read(v.dy);
      const auto loss = [&] { return dot(dy, reference(x, w, c)); };
      Numbers dx = central_differences(x, loss), dw = central_differences(w, loss);
      for (size_t i = 0; i < dx.size(); ++i) dx[i] += old_dx[i];
      for (size_t i = 0; i < dw.size(); ++i) dw[i] += old_dw[i];
      EXPECT_LE(relative_error(world.read(v.dx), dx), t == DType::f32 ? 2e-6 : tolerance(t));
      EXPECT_LE(relative_error(world.read(v.dw), dw), 2e-6);
    }
}

TEST(RmsNorm, AnOffsetIsAddedToTheWeight) {
  World world, plain;
  const Case c{17, 48};
  const Tensors v = run(world, c, DType::f32, DType::f32, 1);
  Numbers w = world.read(v.w), rstd;
  for (double& x : w) x += 1;
  EXPECT_LE(relative_error(world.read(v.y), reference(world.read(v.x), w, c)), tolerance(DType::f32));
  const Tensor more = plain.from(DType::f32, v.w.shape, w), dx = plain.normal(DType::f32, v.x.shape, 4), dw = plain.normal(DType::f32, v.w.shape, 5);
  const Tensors same = run(plain, c, DType::f32, DType::f32);
  rms_norm_backward(plain, dx, dw, same.dy, same.x, more, same.rstd);
  EXPECT_LE(relative_error(world.read(v.dx), plain.read(dx)), 1e-6);
  EXPECT_EQ(world.read(v.dw), plain.read(dw));
}

TEST(RmsNorm, WithoutWeightGradient) {
  World world;
  const Tensors v = run(world, {17, 48}, DType::f32, DType::f32);
  const Tensor dx = world.normal(DType::f32, v.x.shape, 4);
  rms_norm_backward(world, dx, Tensor{}, v.dy, v.x, v.w, v.rstd);
  EXPECT_EQ(world.bytes(dx), world.bytes(v.dx));
}

TEST(RmsNorm, PhantomAndThreads) {
  for (const DType t : {DType::f32, DType::bf16}) {
    expect_phantom_agrees([&](World& world) { run(world, {130, 48}, t, DType::f32); });
    expect_threads_change_nothing([&](World& world) {
      const Tensors v = run(world, {515, 300}, t, DType::f32);
      return std::vector<Tensor>{v.y, v.rstd, v.dx, v.dw};
    });
  }
}

TEST(RmsNorm, RefusesWrongShapesOnAPhantomToo) {
  for (const bool phantom : {false, true}) {
    World world(phantom ? phantom_device(spec_under_test()) : device_under_test());
    const Tensor x = world.empty(DType::f32, {4, 8}), rstd = world.empty(DType::f32, {4}), w = world.empty(DType::f32, {9});
    EXPECT_THROW(rms_norm(world, x, rstd, x, w, eps), Error);
    EXPECT_THROW(rms_norm(world, world.empty(DType::bf16, {4, 8}), rstd, x, world.empty(DType::f32, {8}), eps), Error);
  }
}

TEST(RmsNorm, WhatIsAddedComesAfterTheRounding) {
  for (const Case& c : cases)
    for (const DType t : {DType::f32, DType::bf16}) {
      World world;
      const Shape shape{c.tokens, c.channels};
      const Tensor x = world.normal(t, shape, 1, 2), w = world.normal(DType::f32, {c.channels}, 2, 0.3, 1), plus = world.normal(t, shape, 3), rstd = world.empty(DType::f32, {c.tokens});
      const Tensor alone = world.empty(t, shape), together = world.empty(t, shape);
      rms_norm(world, alone, rstd, x, w, eps, 1);
      add(world, alone, plus);
      rms_norm(world, together, rstd, x, w, eps, 1, plus);
      EXPECT_EQ(world.bytes(together), world.bytes(alone));
    }
}

}  // namespace
}  // namespace thimble::ops
