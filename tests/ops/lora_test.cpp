// Low-rank adapters against float64: the forward pass, and all three gradients by central differences, those of A and B added to what was there.
#include "ops/lora.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

struct Case { int64_t tokens, out, in, rank; float scale; };
constexpr Case cases[] = {{1, 1, 1, 1, 1}, {1, 17, 65, 4, 2}, {3, 5, 7, 16, 0.5f}, {17, 33, 37, 3, -1.25f}, {65, 3, 96, 8, 2}, {65, 48, 17, 1, 4}};
constexpr int64_t small = int64_t{1} << 20;  // bytes of a world: each is touched page by page when it is made
constexpr DType floats[] = {DType::f32, DType::bf16};

struct Values { Numbers x, a, b; };

// scale * (x . A^T) . B^T
Numbers reference(const Values& v, const Case& c) {
  Numbers y(size_t(c.tokens * c.out));
  for (int64_t t = 0; t < c.tokens; ++t)
    for (int64_t r = 0; r < c.rank; ++r) {
      double xa = 0;
      for (int64_t k = 0; k < c.in; ++k) xa += v.x[size_t(t * c.in + k)] * v.a[size_t(r * c.in + k)];
      for (int64_t n = 0; n < c.out; ++n) y[size_t(t * c.out + n)] += double(c.scale) * xa * v.b[size_t(n * c.rank + r)];
    }
  return y;
}

Numbers plus(Numbers a, const Numbers& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

struct Tensors { Tensor a, b; float scale; Tensor x, xa, y, dy, dx, dxa, da, db; };

Tensors make(World& world, const Case& c, DType t) {
  return {.a = world.normal(DType::f32, {c.rank, c.in}, 1), .b = world.normal(DType::f32, {c.out, c.rank}, 2), .scale = c.scale, .x = world.normal(t, {c.tokens, c.in}, 3),
          .xa = world.empty(t, {c.rank, c.tokens}), .y = world.normal(t, {c.tokens, c.out}, 4), .dy = world.normal(t, {c.tokens, c.out}, 5),
          .dx = world.normal(t, {c.tokens, c.in}, 6), .dxa = world.empty(t, {c.rank, c.tokens}), .da = world.normal(DType::f32, {c.rank, c.in}, 7), .db = world.normal(DType::f32, {c.out, c.rank}, 8)};
}

void run_forward(World& world, const Tensors& v) {
  lora_down(world, v.xa, v.x, v.a);
  lora_up(world, v.y, v.xa, v.b, v.scale, v.y);
}

void run_backward(World& world, const Tensors& v, bool way_below = true) {
  lora_up_backward(world, v.dxa, v.db, v.dy, v.xa, v.b, v.scale);
  lora_down_backward(world, way_below ? v.dx : Tensor{}, v.da, v.dxa, v.x, v.a);
}

void run(World& world, const Tensors& v) {
  run_forward(world, v);
  run_backward(world, v);
}

std::string text(const Case& c, DType t) { return fmt::format("{} {} tokens, {} from {}, rank {}, scale {}", label(t), c.tokens, c.out, c.in, c.rank, c.scale); }

TEST(Lora, ForwardAndAllGradients) {
  for (const Case& c : cases)
    for (const DType t : floats) {
      SCOPED_TRACE(text(c, t));
      World world(device_under_test(), small);
      const Tensors v = make(world, c, t);
      Values values{world.read(v.x), world.read(v.a), world.read(v.b)};
      const Numbers y = world.read(v.y), da = world.read(v.da), db = world.read(v.db), dy = world.read(v.dy);
      const int64_t used = world.stream().arena.used();
      run(world, v);
      EXPECT_EQ(world.stream().arena.used(), used);
      // xa and its gradient are stored in the activations' type: one rounding more on the way.
      const double most = t == DType::f32 ? 4e-6 : 2 * tolerance(t);
      EXPECT_LE(relative_error(world.read(v.y), plus(reference(values, c), y)), most);
      const auto loss = [&] { return dot(dy, reference(values, c)); };
      EXPECT_LE(relative_error(world.read(v.dx), central_differences(values.x, loss, 1e-3)), most);  // bilinear: no step is too wide; overwritten
      EXPECT_LE(relative_error(world.read(v.da), plus(central_differences(values.a, loss, 1e-3), da)), most);
      EXPECT_LE(relative_error(world.read(v.db), plus(central_differences(values.b, loss, 1e-3), db)), most);
    }
}

// Two adapters of one input, stacked, are the two alone.
TEST(Lora, StackedIsEachAlone) {
  for (const DType t : floats) {
    World world(device_under_test(), small);
    const Case c{17, 33, 37, 3, 2};
    const Tensor a = world.normal(DType::f32, {2 * c.rank, c.in}, 1), x = world.normal(t, {c.tokens, c.in}, 2), xa = world.empty(t, {2 * c.rank, c.tokens});
    const Tensor da = world.from(DType::f32, a.shape, Numbers(size_t(a.count()))), dx = world.empty(t, x.shape);
    lora_down(world, xa, x, a);
    lora_down_backward(world, dx, da, xa, x, a);
    Numbers sum(size_t(x.count()));
    for (const int64_t row : {int64_t{0}, c.rank}) {
      const Tensor alone = world.empty(t, {c.rank, c.tokens}), da_alone = world.from(DType::f32, {c.rank, c.in}, Numbers(size_t(c.rank * c.in))), dx_alone = world.empty(t, x.shape);
      lora_down(world, alone, x, a.rows(row, c.rank));
      EXPECT_LE(relative_error(world.read(alone), world.read(xa.rows(row, c.rank))), tolerance(t));
      lora_down_backward(world, dx_alone, da_alone, xa.rows(row, c.rank), x, a.rows(row, c.rank));
      EXPECT_LE(relative_error(world.read(da_alone), world.read(da.rows(row, c.rank))), tolerance(t));
      sum = plus(sum, world.read(dx_alone));
    }
    EXPECT_LE(relative_error(world.read(dx), sum), 2 * tolerance(t));
  }
}

TEST(Lora, WithoutAWayBelow) {
  for (const DType t : floats) {
    World world(device_under_test(), small), other(device_under_test(), small);
    const Case c{17, 33, 37, 3, 2};
    const Tensors with = make(world, c, t), without = make(other, c, t);
    run(world, with);
    run_forward(other, without);
    const auto before = other.bytes(without.dx);
    run_backward(other, without, false);
    EXPECT_EQ(other.bytes(without.dx), before);
    EXPECT_EQ(other.bytes(without.da), world.bytes(with.da));
    EXPECT_EQ(other.bytes(without.db), world.bytes(with.db));
  }
}

TEST(Lora, AFreshAdapterChangesNothingAndLearnsThroughBAlone) {
  World world(device_under_test(), small);
  Tensors v = make(world, {17, 33, 37, 3, 2}, DType::f32);
  world.write(v.b, Numbers(33 * 3));
  const auto y = world.bytes(v.y), da = world.bytes(v.da), db = world.bytes(v.db);
  run(world, v);
  EXPECT_EQ(world.bytes(v.y), y);
  for (const double d : world.read(v.dx)) EXPECT_EQ(d, 0);
  EXPECT_EQ(world.bytes(v.da), da);
  EXPECT_NE(world.bytes(v.db), db);
}

TEST(Lora, NoTokens) {
  for (const DType t : floats) {
    World world(device_under_test(), small);
    const Tensors v = make(world, {0, 5, 7, 3, 2}, t);
    const auto da = world.bytes(v.da), db = world.bytes(v.db);
    run(world, v);
    EXPECT_EQ(world.bytes(v.da), da);
    EXPECT_EQ(world.bytes(v.db), db);
  }
}

TEST(Lora, PhantomAndThreads) {
  for (const DType t : floats)
    for (const int64_t tokens : {0, 1, 65}) {
      const Case c{tokens, 48, 37, 4, 2};
      SCOPED_TRACE(text(c, t));
      expect_phantom_agrees([&](World& world) { run(world, make(world, c, t)); });
      if (tokens == 65) expect_threads_change_nothing([&](World& world) {
        const Tensors v = make(world, c, t);
        run(world, v);
        return std::vector<Tensor>{v.xa, v.y, v.dx, v.da, v.db};
      });
    }
}

TEST(Lora, RefusesWrongShapesOnAPhantomToo) {
  for (const bool phantom : {false, true}) {
    World world(phantom ? phantom_device(spec_under_test()) : device_under_test());
    const Tensors v = make(world, {4, 5, 7, 3, 2}, DType::f32);
    EXPECT_THROW(lora_down(world, world.empty(DType::f32, {2, 4}), v.x, v.a), Error);
    EXPECT_THROW(lora_up(world, world.empty(DType::f32, {3, 5}), v.xa, v.b, 1), Error);
    EXPECT_THROW(lora_up_backward(world, v.dxa, v.da, v.dy, v.xa, v.b, 1), Error);
    EXPECT_THROW(lora_down_backward(world, v.y, v.da, v.dxa, v.x, v.a), Error);
  }
}

}  // namespace
}  // namespace thimble::ops
