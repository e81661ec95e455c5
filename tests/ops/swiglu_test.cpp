// The gated activation and its gradient against float64, far into both tails.
#include "ops/swiglu.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

double act(double x, Activation a) {
  return a == Activation::silu ? x / (1 + std::exp(-x)) : 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

Numbers reference(const Numbers& gate, const Numbers& up, Activation a) {
  Numbers y(gate.size());
  for (size_t i = 0; i < y.size(); ++i) y[i] = act(gate[i], a) * up[i];
  return y;
}

struct Tensors { Tensor gate, up, y, dy, dgate, dup; };

Tensors run(World& world, Shape shape, DType t, Activation a = Activation::silu) {
  Tensors v{.gate = world.normal(t, shape, 1, 3), .up = world.normal(t, shape, 2), .y = world.empty(t, shape),
            .dy = world.normal(t, shape, 3), .dgate = world.empty(t, shape), .dup = world.empty(t, shape)};
  swiglu(world, v.y, v.gate, v.up, a);
  swiglu_backward(world, v.dgate, v.dup, v.dy, v.gate, v.up, a);
  return v;
}

TEST(Swiglu, AgreesWithFloat64AndItsGradientWithCentralDifferences) {
  for (const Shape& shape : {Shape{1, 1}, Shape{1, 64}, Shape{17, 6}, Shape{13, 37}})
    for (const auto& [t, a] : {std::pair{DType::f32, Activation::silu}, {DType::bf16, Activation::silu}, {DType::f32, Activation::gelu_tanh}, {DType::bf16, Activation::gelu_tanh}}) {
      SCOPED_TRACE(label(t) + " " + to_string(shape) + (a == Activation::silu ? " silu" : " gelu"));
      World world;
      const Tensors v = run(world, shape, t, a);
      Numbers gate = world.read(v.gate), up = world.read(v.up);
      const Numbers dy = world.read(v.dy);
      EXPECT_LE(relative_error(world.read(v.y), reference(gate, up, a)), tolerance(t));
      // elementwise, so one pair at a time: differences of the whole sum would lose digits for nothing
      Numbers dgate(gate.size()), dup(up.size());
      constexpr double step = 1e-5;
      for (size_t i = 0; i < gate.size(); ++i) {
        dgate[i] = dy[i] * up[i] * (act(gate[i] + step, a) - act(gate[i] - step, a)) / (2 * step);
        dup[i] = dy[i] * act(gate[i], a);
      }
      EXPECT_LE(relative_error(world.read(v.dgate), dgate), tolerance(t));
      EXPECT_LE(relative_error(world.read(v.dup), dup), tolerance(t));
    }
}

TEST(Swiglu, Tails) {
  World world;
  const Tensor gate = world.from(DType::f32, {1, 6}, {-1e4, -100, -0.0, 0.0, 100, 1e4}), one = world.filled(DType::f32, {1, 6}, 1);
  const Tensor y = world.empty(DType::f32, {1, 6}), dgate = world.empty(DType::f32, {1, 6}), dup = world.empty(DType::f32, {1, 6});
  swiglu(world, y, gate, one);
  EXPECT_EQ(world.read(y), (Numbers{0, 0, 0, 0, 100, 1e4}));
  swiglu_backward(world, dgate, dup, one, gate, one);
  EXPECT_EQ(world.read(dgate), (Numbers{0, 0, 0.5, 0.5, 1, 1}));
}

TEST(Swiglu, GradientOfUpMayLieWhereDyLies) {
  World world;
  const Tensors v = run(world, {17, 37}, DType::bf16);
  const Tensor dgate = world.empty(DType::bf16, v.dy.shape);
  swiglu_backward(world, dgate, v.dy, v.dy, v.gate, v.up);
  EXPECT_EQ(world.bytes(dgate), world.bytes(v.dgate));
  EXPECT_EQ(world.bytes(v.dy), world.bytes(v.dup));
}

TEST(Swiglu, PhantomAndThreads) {
  for (const DType t : {DType::f32, DType::bf16}) {
    expect_phantom_agrees([&](World& world) { run(world, {17, 37}, t, Activation::gelu_tanh); });
    expect_threads_change_nothing([&](World& world) {
      const Tensors v = run(world, {301, 257}, t);
      return std::vector<Tensor>{v.y, v.dgate, v.dup};
    });
  }
}

}  // namespace
}  // namespace thimble::ops
