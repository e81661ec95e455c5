// Penalties beside their formula, token by token: of a prompt, of an answer, of both; and counts that are zeros again.
#include "ops/penalties.h"

#include <map>
#include <random>

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

TEST(Penalties, AreTheirFormulaForEachToken) {
  std::mt19937_64 random(3);
  constexpr int64_t vocab = 700;
  for (const Penalties by : {Penalties{1.3, 0, 0}, {0.7, 0, 0}, {1, 0.5, 0}, {1, 0, -0.25}, {1.1, 0.5, 0.125}})
    for (const auto& [n, prompt] : {std::pair{1, 0}, {1, 1}, {40, 40}, {40, 39}, {3000, 1000}}) {
      World world;
      const Tensor logits = world.normal(DType::f32, {1, vocab}, 2), counts = world.from(DType::i32, {vocab}, Numbers(vocab));
      Numbers ids(static_cast<size_t>(n));
      for (double& id : ids) id = double(random() % 500);
      if (n > 10) ids[3] = -1;
      const Numbers before = world.read(logits);
      Numbers given = ids;
      given.back() = 77;  // what lay there
      penalize(world, logits, world.from(DType::i32, {n}, given), prompt, world.from(DType::i32, {1}, {ids.back()}), counts, by);
      std::map<int, std::pair<bool, int>> seen;
      for (int i = 0; i < n; ++i)
        if (ids[size_t(i)] >= 0) {
          auto& [any, times] = seen[int(ids[size_t(i)])];
          any = true, times += i >= prompt;
        }
      const Numbers after = world.read(logits);
      for (int v = 0; v < vocab; ++v) {
        double x = before[size_t(v)];
        if (const auto it = seen.find(v); it != seen.end()) {
          const int times = it->second.second;
          x = x > 0 ? x / by.repetition : x * by.repetition;
          x -= (times > 0 ? by.presence : 0) + by.frequency * times;
        }
        ASSERT_EQ(after[size_t(v)], double(float(x))) << v << " of " << n << " tokens, " << prompt << " of the prompt";
      }
      for (const double count : world.read(counts)) ASSERT_EQ(count, 0);
    }
}

TEST(Penalties, APhantomDoesTheSame) {
  expect_phantom_agrees([](World& world) {
    penalize(world, world.normal(DType::f32, {1, 100}, 1), world.from(DType::i32, {9}, Numbers(9)), 4, world.from(DType::i32, {1}, {5}), world.from(DType::i32, {100}, Numbers(100)), {1.1});
  });
}

}  // namespace
}  // namespace thimble::ops
