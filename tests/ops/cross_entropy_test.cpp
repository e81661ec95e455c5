// Loss, gradient and arg max against float64: ignored tokens, ties, masked and huge logits, a vocabulary of 256k.
#include "ops/cross_entropy.h"

#include "ops/elementwise.h"
#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

struct Case { int64_t tokens, vocab; };
constexpr Case cases[] = {{1, 2}, {17, 37}, {130, 512}, {3, 4099}, {600, 5}};
constexpr double scale = 1.0 / 77;

std::vector<int32_t> some_targets(const Case& c) {
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < c.tokens; ++t) targets.push_back(t % 5 == 3 ? -1 : int32_t(philox(8, 9, uint64_t(t))[0] % uint32_t(c.vocab)));
  return targets;
}

double reference(const Numbers& x, const std::vector<int32_t>& targets, int64_t vocab) {
  double loss = 0;
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    const double* row = &x[t * size_t(vocab)];
    double most = row[0], total = 0;
    for (int64_t i = 0; i < vocab; ++i) most = std::max(most, row[i]);
    for (int64_t i = 0; i < vocab; ++i) total += std::exp(row[i] - most);
    loss += most + std::log(total) - row[targets[t]];
  }
  return loss;
}

int reference_correct(const Numbers& x, const std::vector<int32_t>& targets, int64_t vocab) {
  int correct = 0;
  for (size_t t = 0; t < targets.size(); ++t) {
    const auto row = x.begin() + int64_t(t) * vocab;
    correct += targets[t] >= 0 && std::max_element(row, row + vocab) - row == targets[t];
  }
  return correct;
}

struct Tensors { Tensor logits, loss, correct; };

Tensors run(World& world, const Case& c, DType t, bool gradient = true) {
  Tensors v{.logits = world.normal(t, {c.tokens, c.vocab}, 1, 3), .loss = world.filled(DType::f32, {1}, 0.25), .correct = world.ints({5})};
  cross_entropy(world, v.loss, v.correct, v.logits, world.ints(some_targets(c)), world.filled(DType::f32, {1}, scale), gradient ? v.logits : Tensor{});
  return v;
}

TEST(CrossEntropy, LossAndCountsAgreeWithFloat64) {
  for (const Case& c : cases)
    for (const DType t : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(label(t) + " " + to_string(Shape{c.tokens, c.vocab}));
      World world;
      const auto targets = some_targets(c);
      const Tensors v = run(world, c, t, false);
      const Numbers x = world.read(v.logits);
      EXPECT_EQ(world.bytes(v.logits), world.bytes(world.normal(t, {c.tokens, c.vocab}, 1, 3)));  // untouched
      EXPECT_NEAR(world.read(v.loss)[0], 0.25 + scale * reference(x, targets, c.vocab), 2e-6 * (1 + world.read(v.loss)[0]));
      EXPECT_EQ(world.read(v.correct)[0], 5 + reference_correct(x, targets, c.vocab));
    }
}

TEST(CrossEntropy, GradientIsThatOfCentralDifferences) {
  for (const Case& c : {Case{1, 2}, Case{7, 37}, Case{2, 130}})
    for (const DType t : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(label(t) + " " + to_string(Shape{c.tokens, c.vocab}));
      World world;
      const auto targets = some_targets(c);
      Numbers x = world.read(world.normal(t, {c.tokens, c.vocab}, 1, 3));
      const Numbers dx = central_differences(x, [&] { return double(float(scale)) * reference(x, targets, c.vocab); });
      EXPECT_LE(relative_error(world.read(run(world, c, t).logits), dx), tolerance(t));
    }
}

TEST(CrossEntropy, AGradientOfItsOwnPlaceAndType) {
  for (const Case& c : {Case{7, 37}, Case{2, 136}})
    for (const DType t : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(label(t) + " " + to_string(Shape{c.tokens, c.vocab}));
      World world;
      const Tensor logits = world.normal(DType::f32, {c.tokens, c.vocab}, 1, 3), d = world.empty(t, logits.shape), loss = world.filled(DType::f32, {1}, 0.25);
      const auto before = world.bytes(logits);
      cross_entropy(world, loss, Tensor{}, logits, world.ints(some_targets(c)), world.filled(DType::f32, {1}, scale), d);
      EXPECT_EQ(world.bytes(logits), before);
      const Tensors in_place = run(world, c, DType::f32);
      EXPECT_EQ(world.bytes(d), world.bytes(world.from(t, d.shape, world.read(in_place.logits))));
    }
}

TEST(CrossEntropy, OfCappedLogitsTheGradientIsThatBeforeTheCap) {
  const Case c{7, 37};
  constexpr double cap = 4;
  World world;
  const auto targets = some_targets(c);
  const Tensor logits = world.normal(DType::f32, {c.tokens, c.vocab}, 1, 3);
  Numbers x = world.read(logits);
  const auto loss = [&] {
    Numbers capped = x;
    for (double& a : capped) a = cap * std::tanh(a / cap);
    return double(float(scale)) * reference(capped, targets, c.vocab);
  };
  soft_cap(world, logits, float(cap));
  const Tensor sum = world.filled(DType::f32, {1}, 0);
  cross_entropy(world, sum, Tensor{}, logits, world.ints(targets), world.filled(DType::f32, {1}, scale), logits, float(cap));
  EXPECT_NEAR(world.read(sum)[0], loss(), 1e-6);
  EXPECT_LE(relative_error(world.read(logits), central_differences(x, loss)), tolerance(DType::f32));
}

TEST(CrossEntropy, IgnoredTokensHaveNoLossAndZeroGradient) {
  World world;
  const Tensor logits = world.normal(DType::f32, {3, 37}, 1), loss = world.filled(DType::f32, {1}, 0.5);
  cross_entropy(world, loss, Tensor{}, logits, world.ints({-1, -1, -1}), world.filled(DType::f32, {1}, 1), logits);
  EXPECT_EQ(world.read(loss)[0], 0.5);
  EXPECT_EQ(world.read(logits), Numbers(3 * 37, 0.0));
}

TEST(CrossEntropy, OfEqualMaximaTheFirstIsTheArgMax) {
  World world;
  Numbers x(40, 0.0);
  x[3] = x[20] = 2;
  const Tensor logits = world.from(DType::f32, {2, 20}, x), loss = world.filled(DType::f32, {1}, 0), correct = world.ints({0});
  const Tensor scale_one = world.filled(DType::f32, {1}, 1);
  cross_entropy(world, loss, correct, world.filled(DType::f32, {2, 20}, 1), world.ints({0, 19}), scale_one);
  EXPECT_EQ(world.read(correct)[0], 1);
  cross_entropy(world, loss, correct, logits, world.ints({3, 0}), scale_one);
  EXPECT_EQ(world.read(correct)[0], 3);
}

TEST(CrossEntropy, MaskedAndHugeLogits) {
  World world;
  const double never = -INFINITY;
  const Tensor logits = world.from(DType::f32, {2, 4}, {never, 1e30, never, never, never, 1000, 1000, never});
  const Tensor loss = world.filled(DType::f32, {1}, 0);
  cross_entropy(world, loss, Tensor{}, logits, world.ints({1, 2}), world.filled(DType::f32, {1}, 1), logits);
  EXPECT_NEAR(world.read(loss)[0], std::log(2.0), 1e-6);
  const Numbers d = world.read(logits), want{0, 0, 0, 0, 0, 0.5, -0.5, 0};
  for (size_t i = 0; i < d.size(); ++i) EXPECT_NEAR(d[i], want[i], 1e-4);  // half an ulp of the log sum 1000.69
}

TEST(CrossEntropy, VocabularyOf256k) {
  const Case c{2, 262144};
  World world;
  const auto targets = some_targets(c);
  const Tensors v = run(world, c, DType::f32, false);
  const double want = reference(world.read(v.logits), targets, c.vocab) * scale + 0.25;
  EXPECT_NEAR(world.read(v.loss)[0] / want, 1, 1e-6);
  const Numbers d = world.read(run(world, c, DType::f32).logits);
  double total = 0;  // each row of the gradient sums to zero
  for (const double g : d) total += g;
  EXPECT_NEAR(total / scale, 0, 2e-5);
}

TEST(CrossEntropy, PhantomAndThreads) {
  for (const DType t : {DType::f32, DType::bf16}) {
    expect_phantom_agrees([&](World& world) { run(world, {17, 37}, t); });
    expect_threads_change_nothing([&](World& world) {
      const Tensors v = run(world, {600, 300}, t);
      return std::vector<Tensor>{v.logits, v.loss, v.correct};
    });
  }
}

}  // namespace
}  // namespace thimble::ops
