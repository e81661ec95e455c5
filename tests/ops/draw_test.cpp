// A draw beside the law spelt out: all sorted, all added, in order. Rows of many equals, edges of every kind, and the ends of the range of random numbers.
#include "ops/draw.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "ops/draw_law.h"
#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

int32_t spelt_out(const Numbers& row, const Drawing& how) {
  std::vector<double> falling(row.begin(), row.end());
  std::sort(falling.rbegin(), falling.rend());
  const double best = falling[0];
  const auto weight = [&](double x) { return weight_of(float(x - best), scale_of(how.temperature)); };
  double least = falling.back();
  if (how.top_k > 0 && size_t(how.top_k) < falling.size()) least = falling[size_t(how.top_k) - 1];
  if (how.top_p < 1) {
    double all = 0, sum = 0;
    for (const double x : falling) all += x >= least ? double(weight(x)) : 0;
    size_t n = 0;
    do sum += double(weight(falling[n++]));
    while (sum < std::floor(how.top_p * all));
    least = falling[n - 1];
  }
  if (how.min_p > 0) least = std::max(least, best + how.temperature * std::log(how.min_p));
  unsigned __int128 all = 0, sum = 0;
  for (const double x : row) all += x >= least ? weight(x) : 0;
  for (size_t i = 0; i < row.size(); ++i) {
    sum += row[i] >= least ? weight(row[i]) : 0;
    if (sum > (all * how.random >> 64)) return int32_t(i);
  }
  return -2;
}

TEST(Draw, WeighsTokensAsExpDoes) {
  std::mt19937_64 random(9);
  for (const double temperature : {1e-3, 0.6, 1.0, 7.0, 1e6})
    for (int i = 0; i < 20000; ++i) {
      const auto below = float(-temperature * std::exponential_distribution<>(0.2)(random));
      const double expected = std::ldexp(std::exp(double(below) / temperature), 44);
      ASSERT_NEAR(double(weight_of(below, scale_of(temperature))), expected, 1 + 5e-6 * expected) << below << " at " << temperature;
    }
  EXPECT_EQ(weight_of(0, scale_of(0.3)), uint64_t{1} << 44);
  EXPECT_EQ(weight_of(-1e30f, scale_of(1e-6)), 0u);
}

TEST(Draw, IsTheLaw) {
  std::mt19937_64 random(7);
  const Drawing ways[] = {{}, {.temperature = 0.6}, {.temperature = 50}, {.temperature = 1e-4}, {.top_k = 1}, {.top_k = 50}, {.temperature = 0.7, .top_p = 0.9}, {.top_p = 0},
                          {.top_p = 1e-9}, {.min_p = 0.05}, {.min_p = 1}, {.temperature = 1.3, .top_k = 300, .top_p = 0.95, .min_p = 0.001}, {.temperature = 1e6, .top_k = 7, .top_p = 0.5}};
  for (const int64_t vocab : {1, 3, 64, 1000, 5003, 40000, 128256})
    for (const double step : {0.0, 0.5, 1e-30}) {  // 0: no equals but by chance
      World world;
      Numbers values(static_cast<size_t>(vocab));
      for (double& x : values) {
        x = std::normal_distribution<>(0, 4)(random);
        if (step > 0) x = std::floor(x / 0.5) * step;
      }
      const Tensor logits = world.from(DType::f32, {1, vocab}, values), id = world.empty(DType::i32, {1});
      const Numbers row = world.read(logits);
      for (Drawing how : ways)
        for (int i = 0; i < 6; ++i) {
          how.random = i == 0 ? 0 : i == 1 ? ~uint64_t{0} : random();
          draw(world, id, logits, how);
          ASSERT_EQ(world.read(id)[0], spelt_out(row, how)) << "vocab " << vocab << ", steps of " << step << ", temperature " << how.temperature << ", top-k " << how.top_k << ", top-p "
                                                            << how.top_p << ", min-p " << how.min_p << ", random " << how.random;
        }
    }
}

// More rows than a launch takes, of which some are not drawn of.
TEST(Draw, RowsAreAsEachAlone) {
  for (const int64_t vocab : {777, 20000}) {
    World world;
    constexpr int64_t n = 41;
    const Tensor logits = world.normal(DType::f32, {n, vocab}, 3, 4), ids = world.filled(DType::i32, {n}, -7), one = world.empty(DType::i32, {1});
    std::vector<std::optional<Drawing>> rows;
    for (int64_t i = 0; i < n; ++i)
      rows.push_back(i % 5 == 3 ? std::nullopt : std::optional(Drawing{.temperature = 0.5 + 0.1 * double(i), .top_k = i % 3 * 20, .top_p = i % 2 ? 0.9 : 1, .min_p = i % 7 ? 0 : 0.1, .random = uint64_t(i) << 58}));
    draw(world, ids, logits, rows);
    const Numbers drawn = world.read(ids);
    for (int64_t i = 0; i < n; ++i) {
      if (rows[size_t(i)]) draw(world, one, logits.rows(i, 1), *rows[size_t(i)]);
      EXPECT_EQ(drawn[size_t(i)], rows[size_t(i)] ? world.read(one)[0] : -7) << "row " << i;
    }
  }
}

TEST(Draw, SaysWhereANumberIsNone) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const int64_t vocab : {5, 30001})
    for (const double bad : {infinity, -infinity, std::numeric_limits<double>::quiet_NaN()})
      for (const int64_t at : {int64_t{0}, vocab / 2, vocab - 1}) {
        World world;
        Numbers values(size_t(vocab), 1.0);
        values[size_t(at)] = bad;
        const Tensor id = world.empty(DType::i32, {1});
        draw(world, id, world.from(DType::f32, {1, vocab}, values), {.top_k = 3});
        EXPECT_EQ(world.read(id)[0], -1) << bad << " at " << at;
      }
}

TEST(Draw, APhantomDoesTheSame) {
  expect_phantom_agrees([](World& world) { draw(world, world.empty(DType::i32, {1}), world.normal(DType::f32, {1, 100}, 1), Drawing{}); });
}

}  // namespace
}  // namespace thimble::ops
