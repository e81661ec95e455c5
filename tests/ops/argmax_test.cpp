// The first of the largest, wherever it lies; and rows with a number that is none.
#include "ops/argmax.h"

#include <algorithm>
#include <limits>

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

TEST(Argmax, IsTheFirstOfTheLargest) {
  for (const int64_t vocab : {1, 3, 64, 1000, 1027, 40000})
    for (const int64_t tokens : {0, 1, 5}) {
      World world;
      const Tensor logits = world.normal(DType::f32, {tokens, vocab}, 1), ids = world.empty(DType::i32, {tokens});
      argmax(world, ids, logits);
      const Numbers row = world.read(logits), got = world.read(ids);
      for (int64_t t = 0; t < tokens; ++t) {
        const auto first = row.begin() + t * vocab;
        ASSERT_EQ(got[size_t(t)], double(std::max_element(first, first + vocab) - first)) << vocab;
      }
    }
}

TEST(Argmax, OfEqualOnesTakesTheFirst) {
  for (const int64_t vocab : {5000, 50000}) {
    World world;
    Numbers values(static_cast<size_t>(vocab), -3.0);
    for (const int64_t v : {vocab - 901, vocab / 60, vocab / 4}) values[size_t(v)] = 2.5;
    const Tensor ids = world.empty(DType::i32, {1});
    argmax(world, ids, world.from(DType::f32, {1, vocab}, values));
    EXPECT_EQ(world.read(ids)[0], double(vocab / 60));
  }
}

TEST(Argmax, SaysWhereANumberIsNone) {
  constexpr int64_t vocab = 30001;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()})
    for (const int64_t at : {0, 14990, 30000}) {
      World world;
      Numbers values(2 * vocab, 1.0);
      values[size_t(at)] = bad;
      values[size_t(vocab) + 9] = 4;
      const Tensor ids = world.empty(DType::i32, {2});
      argmax(world, ids, world.from(DType::f32, {2, vocab}, values));
      const Numbers got = world.read(ids);
      EXPECT_EQ(got[0], -1) << bad << " at " << at;
      EXPECT_EQ(got[1], 9);
    }
}

TEST(Argmax, APhantomDoesTheSame) {
  expect_phantom_agrees([](World& world) { argmax(world, world.empty(DType::i32, {3}), world.normal(DType::f32, {3, 100}, 1)); });
}

}  // namespace
}  // namespace thimble::ops
