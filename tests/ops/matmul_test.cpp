// The one matrix product against float64: every transposition, odd sizes, scale and accumulation, both stored types on both paths.
#include "ops/matmul.h"

#include "base/file.h"
#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

struct Case { int64_t m, n, k; };
constexpr Case cases[] = {{1, 1, 1}, {1, 17, 3}, {3, 1, 65}, {17, 65, 3}, {65, 3, 17}, {65, 33, 130}, {3, 300, 1}};
constexpr Case empty_cases[] = {{0, 5, 3}, {5, 0, 3}, {0, 0, 3}, {5, 3, 0}, {0, 5, 0}};
constexpr Trans both[] = {Trans::no, Trans::yes};
constexpr int64_t small = int64_t{1} << 20;  // bytes of a world: each is touched page by page when it is made
constexpr DType floats[] = {DType::f32, DType::bf16};

Shape stored(int64_t rows, int64_t columns, Trans t) { return t == Trans::yes ? Shape{columns, rows} : Shape{rows, columns}; }

// (rows, columns), whichever way it is stored.
double at(const Numbers& x, int64_t rows, int64_t columns, Trans t, int64_t i, int64_t j) {
  return x[size_t(t == Trans::yes ? j * rows + i : i * columns + j)];
}

Numbers reference(const Case& c, const Numbers& a, Trans ta, const Numbers& b, Trans tb, double scale, const Numbers& before) {
  Numbers y = before;
  for (int64_t i = 0; i < c.m; ++i)
    for (int64_t j = 0; j < c.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < c.k; ++k) sum += at(a, c.m, c.k, ta, i, k) * at(b, c.k, c.n, tb, k, j);
      y[size_t(i * c.n + j)] += scale * sum;
    }
  return y;
}

DeviceSpec computing_in(DType t) {
  DeviceSpec spec;
  spec.compute = t;
  return spec;
}

struct Types { DType compute, a, b, y; };

std::vector<Types> type_cases() {
  std::vector<Types> all;
  for (const DType compute : floats)
    for (const DType a : floats)
      for (const DType b : floats)
        for (const DType y : floats)
          if (compute == DType::f32 || multiplies_bf16()) all.push_back({compute, a, b, y});
  return all;
}

void expect_agrees(const Case& c, const Types& t, Trans ta, Trans tb, float scale, bool add, bool apart = false) {
  SCOPED_TRACE(fmt::format("{}x{}x{} ta {} tb {} scale {} add {} compute {}: {} . {} -> {}", c.m, c.n, c.k, int(ta), int(tb), scale, add, label(t.compute),
                           label(t.a), label(t.b), label(t.y)));
  World world(device_under_test(computing_in(t.compute)), small);
  const Tensor a = world.normal(t.a, stored(c.m, c.k, ta), 1), b = world.normal(t.b, stored(c.k, c.n, tb), 2), y = world.normal(t.y, {c.m, c.n}, 3, 2);
  // What the product takes b as where it computes in bf16.
  const bool rounds_b = t.a == DType::bf16 && (t.compute == DType::bf16 || tests_run_on_cuda());
  const Numbers b_taken = rounds_b ? world.read(world.from(DType::bf16, b.shape, world.read(b))) : world.read(b);
  const Numbers expected = reference(c, world.read(a), ta, b_taken, tb, scale, add ? world.read(y) : Numbers(size_t(c.m * c.n)));
  const Tensor other = world.from(t.y, y.shape, world.read(y));
  if (!add || apart) world.write(y, Numbers(size_t(c.m * c.n), NAN));  // overwritten means: whatever was there
  const int64_t used = world.stream().arena.used();
  matmul(world, {.y = y, .a = a, .ta = ta, .b = b, .tb = tb, .scale = scale, .c = !add ? Tensor{} : apart ? other : y});
  EXPECT_EQ(world.stream().arena.used(), used);
  EXPECT_LE(relative_error(world.read(y), expected), tolerance(t.y));
}

TEST(Matmul, AgreesWithFloat64InEveryTransposition) {
  for (const Types& t : type_cases())
    for (const Case& c : cases)
      for (const Trans ta : both)
        for (const Trans tb : both) expect_agrees(c, t, ta, tb, 1, false);
}

TEST(Matmul, ScalesTheProductAndNotWhatItIsAddedTo) {
  for (const Types& t : type_cases())
    for (const Case& c : {Case{3, 17, 65}, Case{17, 1, 3}, Case{65, 65, 1}})
      for (const Trans ta : both)
        for (const Trans tb : both)
          for (const float scale : {1.0f, -0.37f})
            for (const bool add : {true, false})
              for (const bool apart : {false, true}) expect_agrees(c, t, ta, tb, scale, add, apart);
}

TEST(Matmul, EmptyMatrices) {
  for (const Types& t : type_cases())
    for (const Case& c : empty_cases)
      for (const Trans ta : both)
        for (const Trans tb : both)
          for (const bool add : {true, false})
            for (const bool apart : {false, true}) expect_agrees(c, t, ta, tb, 1, add, apart);
}

TEST(Matmul, OfCodesIsExact) {
  if (tests_run_on_cuda() || !this_cpu().sums_int8) GTEST_SKIP() << "needs a processor with VNNI";
  for (const Case& c : {Case{3, 17, 65}, Case{65, 33, 8960}, Case{1, 1, 1}, Case{5, 0, 3}, Case{5, 3, 0}})
    for (const Trans ta : both)
      for (const Trans tb : both) {
        World world(device_under_test({.sums_int8 = true}), small);
        const auto codes = [&](Shape shape, int shift) {
          Numbers x(size_t(shape.count()));
          for (size_t i = 0; i < x.size(); ++i) x[i] = double(127 - int((i * i >> shift) % 7) * (i % 3 ? 127 / 3 : 1));  // many of the largest, of one sign
          return world.from(DType::i8, shape, x);
        };
        const Tensor a = codes(stored(c.m, c.k, ta), 1), b = codes(stored(c.k, c.n, tb), 3), y = world.empty(DType::i32, {c.m, c.n});
        matmul(world, {.y = y, .a = a, .ta = ta, .b = b, .tb = tb});
        EXPECT_EQ(world.read(y), reference(c, world.read(a), ta, world.read(b), tb, 1, Numbers(size_t(c.m * c.n))));
      }
}

TEST(Matmul, PhantomTakesTheSameScratch) {
  for (const Types& t : type_cases())
    for (const bool add : {true, false})
      expect_phantom_agrees(
          [&](World& world) {
            const Tensor a = world.normal(t.a, {17, 65}, 1), b = world.normal(t.b, {33, 65}, 2), y = world.normal(t.y, {17, 33}, 3);
            matmul(world, {.y = y, .a = a, .b = b, .tb = Trans::yes, .c = add ? y : Tensor{}});
          },
          computing_in(t.compute));
}

TEST(Matmul, CountsItsWork) {
  World world(device_under_test(), small);
  matmul(world, {.y = world.empty(DType::f32, {3, 5}), .a = world.normal(DType::f32, {3, 7}, 1), .b = world.normal(DType::f32, {7, 5}, 2), .name = "mine"});
  const auto& all = world.ledger().entries();
  const auto ran = std::find_if(all.rbegin(), all.rend(), [](const Entry& e) { return e.kind == Entry::Kind::ran; });
  ASSERT_NE(ran, all.rend());
  const Entry& e = *ran;
  EXPECT_STREQ(e.name, "mine");
  EXPECT_TRUE(e.matrix);
  EXPECT_EQ(e.flops, 2 * 3 * 5 * 7);
  EXPECT_EQ(e.bytes, 4 * (15 + 21 + 35));
}

TEST(Matmul, RefusesWrongShapesOnAPhantomToo) {
  for (const bool phantom : {false, true}) {
    World world(phantom ? phantom_device(spec_under_test()) : device_under_test());
    const auto matrix = [&](int64_t rows, int64_t columns) { return world.empty(DType::f32, {rows, columns}); };
    EXPECT_THROW(matmul(world, {.y = matrix(3, 5), .a = matrix(3, 7), .b = matrix(6, 5)}), Error);
    EXPECT_THROW(matmul(world, {.y = matrix(4, 5), .a = matrix(3, 7), .b = matrix(7, 5)}), Error);
    EXPECT_THROW(matmul(world, {.y = matrix(3, 4), .a = matrix(3, 7), .b = matrix(7, 5)}), Error);
    EXPECT_THROW(matmul(world, {.y = matrix(3, 5), .a = matrix(3, 7), .ta = Trans::yes, .b = matrix(7, 5)}), Error);
    EXPECT_THROW(matmul(world, {.y = matrix(3, 5), .a = matrix(3, 7), .b = matrix(7, 5), .tb = Trans::yes}), Error);
    EXPECT_THROW(matmul(world, {.y = world.empty(DType::f32, {15}), .a = matrix(3, 7), .b = matrix(7, 5)}), Error);
  }
}

#ifdef THIMBLE_CUDA
// What one run found fastest the next one takes from the file, and computes the same bits; a damaged file costs a search, no more.
TEST(Algorithms, ASecondRunTakesWhatTheFirstFound) {
  if (!tests_run_on_cuda()) GTEST_SKIP() << "needs a card";
  std::string name = (fs::temp_directory_path() / "thimble-algorithms-XXXXXX").string();
  DeviceSpec spec = this_cuda();
  spec.cache = ::mkdtemp(name.data());
  spec.matmul_workspace = small;
  const auto product = [&] {
    World w(cuda_device(spec, DeviceMemory::host_visible));
    const Tensor a = w.normal(DType::bf16, {256, 512}, 1), b = w.normal(DType::bf16, {384, 512}, 2), y = w.empty(DType::bf16, {256, 384});
    matmul(w, {.y = y, .a = a, .b = b, .tb = Trans::yes});
    return w.read(y);
  };
  const auto text = [&] {
    std::string all;
    for (const auto& entry : fs::directory_iterator(spec.cache)) all += entry.path().filename().string() + ": " + read_text(entry.path());
    return all;
  };
  const Numbers first = product();
  const std::string kept = text();
  EXPECT_NE(kept.find("\"algorithms\":[{"), std::string::npos) << kept;
  EXPECT_EQ(product(), first);
  EXPECT_EQ(text(), kept);
  for (const auto& entry : fs::directory_iterator(spec.cache)) write_atomically(entry.path(), "{");
  product();
  EXPECT_NE(text().find("\"algorithms\":[{"), std::string::npos);
  spec.deterministic = true;
  fs::remove_all(spec.cache);
  product();
  EXPECT_FALSE(fs::exists(spec.cache));
}
#endif

}  // namespace
}  // namespace thimble::ops
