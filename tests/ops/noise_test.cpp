// What is drawn: the numbers of base/philox.h at their places, the same in any cut into micro-batches, with any number of threads.
#include "ops/noise.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

Tensor key(World& world, int32_t first_token = 0) { return world.ints({7, -3, 5, first_token}); }
float drawn(int64_t token, int64_t channel, int64_t channels, uint32_t place) {
  return to_unit(philox(uint64_t(7) | uint64_t(uint32_t(-3)) << 32, uint64_t{5} << 32 | place, uint64_t(token * ((channels + 3) / 4) + channel / 4))[size_t(channel % 4)]);
}

TEST(Noise, DropoutMasksByPosition) {
  for (const Shape& shape : {Shape{1, 1}, Shape{3, 4}, Shape{17, 37}, Shape{64, 130}})
    for (const DType t : {DType::f32, DType::bf16})
      for (const bool plus : {false, true}) {
        World world;
        const Tensor x = world.normal(t, shape, 1), c = plus ? world.normal(t, shape, 2) : Tensor{}, y = world.empty(t, shape);
        dropout(world, y, x, 0.3f, {key(world, 2), 9}, c);
        Numbers expected = world.read(x);
        const Numbers added = plus ? world.read(c) : Numbers(expected.size());
        int64_t kept = 0;
        for (int64_t i = 0; i < shape.count(); ++i) {
          const bool keep = drawn(2 + i / shape[1], i % shape[1], shape[1], 9) >= 0.3f;
          expected[size_t(i)] = (keep ? expected[size_t(i)] / 0.7 : 0) + added[size_t(i)];
          kept += keep;
        }
        EXPECT_LE(relative_error(world.read(y), expected), tolerance(t));
        if (shape.count() > 1000) {
          EXPECT_NEAR(double(kept) / double(shape.count()), 0.7, 0.02);
        }
      }
}

TEST(Noise, OfUniformNumbers) {
  World world;
  const Shape shape{19, 35};
  const Tensor y = world.normal(DType::f32, shape, 1);
  Numbers expected = world.read(y);
  for (int64_t i = 0; i < shape.count(); ++i) expected[size_t(i)] += 0.25 * (2 * double(drawn(i / 35, i % 35, 35, 1)) - 1);
  add_noise(world, y, 0.25f, {key(world), 1});
  EXPECT_LE(relative_error(world.read(y), expected), tolerance(DType::f32));
}

TEST(Noise, TheCutIntoMicroBatchesChangesNothing) {
  World world;
  const Tensor x = world.normal(DType::f32, {23, 18}, 1), whole = world.empty(DType::f32, {23, 18}), parts = world.empty(DType::f32, {23, 18});
  dropout(world, whole, x, 0.5f, {key(world), 4});
  dropout(world, parts.rows(0, 10), x.rows(0, 10), 0.5f, {key(world), 4});
  dropout(world, parts.rows(10, 13), x.rows(10, 13), 0.5f, {key(world, 10), 4});
  EXPECT_EQ(world.bytes(whole), world.bytes(parts));
}

TEST(Noise, PhantomAndThreads) {
  const auto calls = [](World& world) {
    const Tensor y = world.normal(DType::bf16, {65, 257}, 1);
    dropout(world, y, y, 0.1f, {key(world), 2}, y);
    add_noise(world, y, 0.5f, {key(world), 3});
    return std::vector<Tensor>{y};
  };
  expect_phantom_agrees(calls);
  expect_threads_change_nothing(calls);
}

}  // namespace
}  // namespace thimble::ops
