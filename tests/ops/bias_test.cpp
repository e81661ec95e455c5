// Bias added to rows, and its gradient, the sums over the tokens.
#include "ops/bias.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

struct Tensors { Tensor y, b, dy, db; };

Tensors run(World& world, const Shape& shape, DType t, DType bias) {
  Tensors v{.y = world.normal(t, shape, 1), .b = world.normal(bias, {shape[1]}, 2), .dy = world.normal(t, shape, 3), .db = world.normal(DType::f32, {shape[1]}, 4)};
  add_bias(world, v.y, v.b);
  add_bias_backward(world, v.db, v.dy);
  return v;
}

TEST(Bias, AgreesWithFloat64) {
  for (const Shape& shape : {Shape{1, 1}, Shape{1, 64}, Shape{17, 6}, Shape{300, 37}, Shape{5, 4099}})
    for (const auto& [t, bias] : {std::pair{DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}}) {
      SCOPED_TRACE(label(t) + " b " + label(bias) + " " + to_string(shape));
      World world, before;
      const Tensors v = run(world, shape, t, bias);
      Numbers y = before.read(before.normal(t, shape, 1)), db = before.read(before.normal(DType::f32, {shape[1]}, 4));
      const Numbers b = world.read(v.b), dy = world.read(v.dy);
      for (size_t i = 0; i < y.size(); ++i) y[i] += b[i % b.size()], db[i % b.size()] += dy[i];
      EXPECT_LE(relative_error(world.read(v.y), y), tolerance(t));
      EXPECT_LE(relative_error(world.read(v.db), db), 2e-6);
    }
}

TEST(Bias, PhantomAndThreads) {
  const auto calls = [](World& world) {
    const Tensors v = run(world, {130, 257}, DType::bf16, DType::f32);
    return std::vector<Tensor>{v.y, v.db};
  };
  expect_phantom_agrees(calls);
  expect_threads_change_nothing(calls);
}

TEST(Bias, RefusesAnotherWidth) {
  World world(phantom_device({}));
  EXPECT_THROW(add_bias(world, world.empty(DType::f32, {2, 6}), world.empty(DType::f32, {5})), Error);
}

}  // namespace
}  // namespace thimble::ops
