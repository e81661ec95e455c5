// The vector exponential against libm over its whole range, and conversions against the scalar types.
#include "ops/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/philox.h"

namespace thimble::ops {

static float exp_of(float x) { return exp(splat(x))[3]; }

TEST(VectorMath, ExpIsWithinTwoUlp) {
  double worst = 0;
  for (int i = 0; i <= 2000000; ++i) {
    const float x = -87.3f + 176.0f * float(i) / 2000000;
    const double exact = std::exp(double(x));
    const auto rounded = float(exact);
    const double ulp = double(std::nextafter(rounded, INFINITY)) - double(rounded);
    worst = std::max(worst, std::abs(double(exp_of(x)) - exact) / ulp);
  }
  EXPECT_LE(worst, 2.0);
}

TEST(VectorMath, ExpAtTheEdges) {
  EXPECT_EQ(exp_of(0), 1.0f);
  EXPECT_EQ(exp_of(-88), 0.0f);
  EXPECT_EQ(exp_of(-1e30f), 0.0f);
  EXPECT_EQ(exp_of(-INFINITY), 0.0f);
  EXPECT_EQ(exp_of(89), INFINITY);
  EXPECT_EQ(exp_of(INFINITY), INFINITY);
  EXPECT_TRUE(std::isfinite(exp_of(88.72f)));
  EXPECT_TRUE(std::isnan(exp_of(std::numeric_limits<float>::quiet_NaN())));
}

template <class T>
void expect_conversions_agree() {
  for (uint64_t round = 0; round < 2000; ++round) {
    float x[lanes], back[lanes];
    T narrow[lanes], part[lanes] = {};
    for (uint64_t i = 0; i < lanes; ++i) x[i] = std::ldexp(normal_at(7, round, i), int(round % 40) - 20);
    if (round == 0) x[0] = INFINITY, x[1] = -INFINITY, x[2] = -0.0f, x[3] = std::numeric_limits<float>::quiet_NaN();
    store(narrow, load(x));
    store(back, load(narrow));
    store(part, load(x), int64_t{5});
    const Floats few = load(narrow, int64_t{5}, -1.0f);
    for (int64_t i = 0; i < lanes; ++i) {
      if (std::isnan(x[i])) {
        EXPECT_TRUE(std::isnan(back[i]));
        continue;
      }
      EXPECT_EQ(back[i], float(T(x[i])));
      EXPECT_EQ(float(part[i]), i < 5 ? back[i] : 0.0f);
      EXPECT_EQ(few[i], i < 5 ? back[i] : -1.0f);
    }
  }
}

TEST(VectorMath, TanhIsWithinTwoUlp) {
  for (float x = -12; x < 12; x += 0.00037f) {
    const double want = std::tanh(double(x));
    EXPECT_LE(std::abs(double(tanh(splat(x))[0]) - want), 2.5e-7 * std::abs(want) + 1e-30) << x;
  }
  EXPECT_EQ(tanh(splat(100))[0], 1.0f);
  EXPECT_EQ(tanh(splat(-1e30f))[0], -1.0f);
  EXPECT_EQ(tanh(splat(1e-20f))[0], 1e-20f);
}

TEST(VectorMath, ConversionsRoundAsTheScalars) {
  expect_conversions_agree<float>();
  expect_conversions_agree<bf16>();
  expect_conversions_agree<f16>();
}

TEST(VectorMath, AcrossTheLanes) {
  Floats x;
  for (int i = 0; i < lanes; ++i) x[i] = float(i * i);
  EXPECT_EQ(sum(x), 1240.0f);
  EXPECT_EQ(largest(-x), 0.0f);
  EXPECT_EQ(largest(x), 225.0f);
  const Floats sums = sum_each([&](int i) { return x * float(i + 1); });
  for (int i = 0; i < lanes; ++i) EXPECT_EQ(sums[i], 1240.0f * float(i + 1));
}

}  // namespace thimble::ops
