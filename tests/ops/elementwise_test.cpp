// Set, convert, add and the sum of squares.
#include "ops/elementwise.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

TEST(Elementwise, ZeroSetsEveryByteAndNoMore) {
  World world;
  const Tensor all = world.filled(DType::f32, {70001}, 7);
  zero(world, all.rows(1, 69999));
  const Numbers got = world.read(all);
  EXPECT_EQ(got.front(), 7);
  EXPECT_EQ(got.back(), 7);
  for (size_t i = 1; i + 1 < got.size(); ++i) ASSERT_EQ(got[i], 0);
}

TEST(Elementwise, ConvertRoundsOnce) {
  for (const DType from : {DType::f32, DType::bf16, DType::f16})
    for (const DType to : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(label(from) + " to " + label(to));
      World world;
      const Tensor x = world.normal(from, {13, 37}, 1), y = world.empty(to, {13, 37}), want = world.from(to, {13, 37}, world.read(x));
      convert(world, y, x);
      EXPECT_EQ(world.bytes(y), world.bytes(want));
    }
}

TEST(Elementwise, AddRoundsOnce) {
  for (const DType t : {DType::f32, DType::bf16}) {
    World world;
    const Tensor x = world.normal(t, {13, 37}, 1), y = world.normal(t, {13, 37}, 2);
    Numbers sum = world.read(y);
    const Numbers a = world.read(x);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] = double(float(sum[i]) + float(a[i]));
    const Tensor want = world.from(t, {13, 37}, sum);
    add(world, y, x);
    EXPECT_EQ(world.bytes(y), world.bytes(want));
  }
}

TEST(Elementwise, ScaleAndCap) {
  for (const DType t : {DType::f32, DType::bf16}) {
    World world;
    const Tensor x = world.normal(t, {13, 37}, 1, 20), y = world.normal(t, {13, 37}, 1, 20);
    Numbers scaled = world.read(x), capped = scaled;
    for (double& a : scaled) a *= 5.5;
    for (double& a : capped) a = 30 * std::tanh(a / 30);
    scale(world, x, 5.5f);
    soft_cap(world, y, 30);
    EXPECT_LE(relative_error(world.read(x), scaled), tolerance(t));
    EXPECT_LE(relative_error(world.read(y), capped), tolerance(t));
  }
}

TEST(Elementwise, SumOfSquaresIsAddedTo) {
  for (const int64_t n : {1, 17, 4096, 4097, 3000000}) {
    World world;
    const Tensor x = world.normal(DType::f32, {n}, 1), sum = world.filled(DType::f32, {1}, 2.5);
    const Numbers a = world.read(x);
    sum_of_squares(world, sum, x);
    const double want = 2.5 + dot(a, a);
    EXPECT_LE(std::abs(world.read(sum)[0] / want - 1), 1e-6) << n;
  }
}

TEST(Elementwise, PhantomAndThreads) {
  const auto run = [](World& world) {
    const Tensor x = world.normal(DType::f32, {400, 257}, 1), y = world.normal(DType::f32, {400, 257}, 2);
    const Tensor z = world.empty(DType::bf16, {400, 257}), sum = world.filled(DType::f32, {1}, 0), gone = world.normal(DType::f32, {5}, 3);
    add(world, y, x);
    convert(world, z, y);
    sum_of_squares(world, sum, y);
    zero(world, gone);
    scale(world, x, 3);
    soft_cap(world, y, 2);
    return std::vector<Tensor>{x, y, z, sum, gone};
  };
  expect_phantom_agrees(run);
  expect_threads_change_nothing(run);
}

}  // namespace
}  // namespace thimble::ops
