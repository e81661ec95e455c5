// The linear layer on dense and packed weights against float64 of the numbers that the weight stands for, from no token to many: both
// ways of multiplying, on either side of the format's own border.
#include "ops/linear.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;
using quant::FormatId;

struct Case { int64_t tokens, out, in; };
constexpr Case cases[] = {{1, 1, 1}, {1, 65, 17}, {3, 17, 64}, {8, 5, 130}, {9, 5, 130}, {17, 33, 37}, {65, 3, 96}, {65, 129, 65}};
constexpr FormatId format_ids[] = {FormatId::dense, FormatId::nf4, FormatId::nf4_dq, FormatId::int8};
constexpr int64_t small = int64_t{1} << 20;  // bytes of a world: each is touched page by page when it is made
constexpr DType floats[] = {DType::f32, DType::bf16};

// A weight in some format, and the numbers that it holds now.
struct Held {
  quant::Weight weight;
  Numbers values;
};

Held hold(World& world, FormatId id, Shape matrix, DType dense) {
  Held h{.weight = {.format = id, .shape = matrix}, .values = {}};
  int count = 0;
  const auto parts = quant::parts_of(id, matrix, dense, count);
  for (size_t i = 0; i < size_t(count); ++i) h.weight.parts[i] = world.empty(parts[i].dtype, parts[i].shape);
  quant::format(id).pack(world, h.weight, world.normal(dense, matrix, 1, 0.3));
  const Tensor unpacked = world.empty(DType::f32, matrix);
  quant::format(id).unpack(world, unpacked, h.weight);
  if (!world.is_phantom()) h.values = world.read(unpacked);
  return h;
}

// Many tokens meet an INT8 weight as codes themselves (llm_int8_test has that arithmetic): half a step of 127 to each number, and the result's rounding.
double forward_tolerance(const Held& w, DType t, bool many) { return tolerance(t) + (w.weight.format == FormatId::int8 && many ? 1e-2 : 0); }

// x (T, K) . w^T
Numbers reference(const Numbers& x, const Numbers& w, const Case& c) {
  Numbers y(size_t(c.tokens * c.out));
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t n = 0; n < c.out; ++n)
      for (int64_t k = 0; k < c.in; ++k) y[size_t(t * c.out + n)] += x[size_t(t * c.in + k)] * w[size_t(n * c.in + k)];
  return y;
}

Numbers plus(Numbers a, const Numbers& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

std::string text(FormatId id, DType dense, DType t, const Case& c, bool add) {
  return fmt::format("{} of {}, activations {}, {} tokens, {} from {}, add {}", quant::format(id).name, label(dense), label(t), c.tokens, c.out, c.in, add);
}

template <class F>
void each_combination(F&& f) {
  for (const FormatId id : format_ids)
    for (const DType dense : floats)
      for (const DType t : floats)
        for (const bool add : {false, true}) f(id, dense, t, add);
}

TEST(Linear, AgreesWithFloat64OfTheUnpackedWeight) {
  each_combination([](FormatId id, DType dense, DType t, bool add) {
    for (const Case& c : cases) {
      SCOPED_TRACE(text(id, dense, t, c, add));
      World world(device_under_test(), small);
      const Held w = hold(world, id, {c.out, c.in}, dense);
      const Tensor x = world.normal(t, {c.tokens, c.in}, 2), y = world.normal(t, {c.tokens, c.out}, 3);
      const Numbers product = reference(world.read(x), w.values, c), expected = add ? plus(product, world.read(y)) : product;
      const Tensor again = world.from(t, y.shape, world.read(y));
      const int64_t used = world.stream().arena.used();
      linear(world, y, x, w.weight, add ? y : Tensor{});
      linear_few(world, x, std::array{quant::FewProduct{again, &w.weight, add ? again : Tensor{}}});
      EXPECT_EQ(world.stream().arena.used(), used);
      EXPECT_LE(relative_error(world.read(y), expected), forward_tolerance(w, t, true));
      EXPECT_LE(relative_error(world.read(again), expected), forward_tolerance(w, t, c.tokens > quant::most_few_tokens));
    }
  });
}

TEST(Linear, AddsWhatLiesElsewhere) {
  each_combination([](FormatId id, DType dense, DType t, bool backward) {
    for (const Case& c : {Case{3, 17, 64}, Case{17, 33, 37}}) {
      SCOPED_TRACE(text(id, dense, t, c, backward));
      World world(device_under_test(), small);
      const Held w = hold(world, id, {c.out, c.in}, dense);
      const Tensor x = world.normal(t, {c.tokens, backward ? c.out : c.in}, 2), other = world.normal(t, {c.tokens, backward ? c.in : c.out}, 3);
      const Tensor in_place = world.from(t, other.shape, world.read(other)), apart = world.empty(t, other.shape);
      const auto before = world.bytes(other);
      for (const bool few : {false, true}) {
        const auto run = [&](Tensor y, Tensor to) {
          if (backward) linear_backward_input(world, y, x, w.weight, to);
          else if (few) linear_few(world, x, std::array{quant::FewProduct{y, &w.weight, to}});
          else linear(world, y, x, w.weight, to);
        };
        world.write(in_place, world.read(other));
        run(in_place, in_place);
        run(apart, other);
        EXPECT_LE(relative_error(world.read(apart), world.read(in_place)), tolerance(t));
        EXPECT_EQ(world.bytes(other), before);
      }
    }
  });
}

TEST(Linear, LogitsOfBf16TokensAreF32) {
  for (const int64_t tokens : {3, 17}) {
    World world(device_under_test(), small);
    const Case c{tokens, 65, 33};
    const Held w = hold(world, FormatId::dense, {c.out, c.in}, DType::bf16);
    const Tensor x = world.normal(DType::bf16, {c.tokens, c.in}, 2), y = world.empty(DType::f32, {c.tokens, c.out});
    linear_few(world, x, std::array{quant::FewProduct{y, &w.weight}});
    EXPECT_LE(relative_error(world.read(y), reference(world.read(x), w.values, c)), tolerance(DType::f32));
  }
}

TEST(Linear, GradientsAreThoseOfCentralDifferences) {
  each_combination([](FormatId id, DType dense, DType t, bool add) {
    for (const Case& c : {Case{1, 1, 1}, Case{1, 17, 3}, Case{3, 5, 17}, Case{17, 3, 9}, Case{65, 2, 3}}) {
      SCOPED_TRACE(text(id, dense, t, c, add));
      World world(device_under_test(), small);
      Held w = hold(world, id, {c.out, c.in}, dense);
      const Tensor x = world.normal(t, {c.tokens, c.in}, 2), dy = world.normal(t, {c.tokens, c.out}, 3);
      const Tensor dx = world.normal(t, x.shape, 4), dw = world.normal(DType::f32, {c.out, c.in}, 5);
      Numbers xs = world.read(x), expected_dx(xs.size()), expected_dw = world.read(dw);
      const Numbers dys = world.read(dy), old_dx = world.read(dx);
      if (t == DType::bf16) w.values = world.read(world.from(DType::bf16, {c.out, c.in}, w.values));  // as it is unpacked for the product
      const auto loss = [&] { return dot(dys, reference(xs, w.values, c)); };
      expected_dx = central_differences(xs, loss, 1e-3);  // linear: no step is too wide
      expected_dw = plus(expected_dw, central_differences(w.values, loss, 1e-3));
      if (add) expected_dx = plus(expected_dx, old_dx);
      else world.write(dx, Numbers(xs.size(), NAN));
      linear_backward_input(world, dx, dy, w.weight, add ? dx : Tensor{});
      EXPECT_LE(relative_error(world.read(dx), expected_dx), tolerance(t));
      linear_backward_weight(world, dw, dy, x);  // always added to
      EXPECT_LE(relative_error(world.read(dw), expected_dw), 4e-6);
    }
  });
}

TEST(Linear, NoTokens) {
  for (const FormatId id : format_ids)
    for (const DType t : floats) {
      SCOPED_TRACE(text(id, DType::f32, t, {0, 5, 7}, false));
      World world(device_under_test(), small);
      const Held w = hold(world, id, {5, 7}, DType::f32);
      const Tensor x = world.empty(t, {0, 7}), y = world.empty(t, {0, 5}), dw = world.normal(DType::f32, {5, 7}, 4);
      const auto before = world.bytes(dw);
      for (const bool add : {false, true}) {
        linear(world, y, x, w.weight, add ? y : Tensor{});
        linear_backward_input(world, x, y, w.weight, add ? x : Tensor{});
      }
      linear_backward_weight(world, dw, y, x);
      EXPECT_EQ(world.bytes(dw), before);
    }
}

// The sum of one (token, row) is the same for one token and for many that go straight from the packed bytes: decode repeats prefill.
TEST(Linear, AFewTokensAreTheSameTogetherAndAlone) {
  for (const FormatId id : format_ids) {
    World world(device_under_test(), small);
    const Held w = hold(world, id, {33, 130}, DType::bf16);
    const Tensor x = world.normal(DType::f32, {8, 130}, 2), together = world.empty(DType::f32, {8, 33}), alone = world.empty(DType::f32, {8, 33});
    const auto few = [&](Tensor y, Tensor from) { linear_few(world, from, std::array{quant::FewProduct{y, &w.weight}}); };
    few(together, x);
    for (int64_t t = 0; t < 8; ++t) few(alone.rows(t, 1), x.rows(t, 1));
    EXPECT_EQ(world.bytes(together), world.bytes(alone));
  }
}

std::vector<Tensor> all_of(World& world, FormatId id, DType t, int64_t tokens) {
  const Held w = hold(world, id, {33, 37}, DType::bf16);
  const Tensor x = world.normal(t, {tokens, 37}, 2), y = world.normal(t, {tokens, 33}, 3), dx = world.normal(t, x.shape, 4);
  const Tensor dw = world.normal(DType::f32, {33, 37}, 5);
  linear(world, y, x, w.weight, y);
  const Tensor few = world.empty(t, y.shape);
  linear_few(world, x, std::array{quant::FewProduct{y, &w.weight, y}, quant::FewProduct{few, &w.weight}});
  linear_backward_input(world, dx, y, w.weight, dx);
  linear_backward_weight(world, dw, y, x);
  return {y, few, dx, dw};
}

TEST(Linear, PhantomAndThreads) {
  for (const FormatId id : format_ids)
    for (const DType t : floats)
      for (const int64_t tokens : {0, 1, 8, 9, 65}) {
        SCOPED_TRACE(text(id, DType::bf16, t, {tokens, 33, 37}, true));
        expect_phantom_agrees([&](World& world) { all_of(world, id, t, tokens); });
        if (t == DType::f32 && (tokens == 8 || tokens == 65)) expect_threads_change_nothing([&](World& world) { return all_of(world, id, t, tokens); });
      }
}

TEST(Linear, RefusesWrongShapesOnAPhantomToo) {
  for (const bool phantom : {false, true}) {
    World world(phantom ? phantom_device(spec_under_test()) : device_under_test());
    for (const FormatId id : format_ids) {
      const auto w = hold(world, id, {5, 7}, DType::f32).weight;
      const auto matrix = [&](int64_t rows, int64_t columns) { return world.empty(DType::f32, {rows, columns}); };
      for (const int64_t tokens : {2, 20}) {
        EXPECT_THROW(linear(world, matrix(tokens, 5), matrix(tokens, 6), w), Error);
        EXPECT_THROW(linear(world, matrix(tokens, 7), matrix(tokens, 7), w), Error);
        EXPECT_THROW(linear(world, matrix(tokens + 1, 5), matrix(tokens, 7), w), Error);
        EXPECT_THROW(linear_backward_input(world, matrix(tokens, 5), matrix(tokens, 7), w), Error);
        EXPECT_THROW(linear_backward_weight(world, matrix(5, 7), matrix(tokens, 7), matrix(tokens, 5)), Error);
      }
    }
  }
}

}  // namespace
}  // namespace thimble::ops
