// LLM.int8's product beside bitsandbytes' own (tests/golden/quantised.py), beside its arithmetic in float64, and at the cap of outlier columns.
#include "ops/llm_int8.h"

#include "golden_folder.h"
#include "ops/harness.h"
#include "ops/linear.h"
#include "quant/int8.h"
#include "store/safetensors.h"

namespace thimble::ops {
namespace {

using namespace test;

quant::Weight pack(World& world, const Tensor& dense) {
  quant::Weight w{.format = quant::FormatId::int8, .shape = dense.shape};
  w.parts[0] = world.empty(DType::i8, dense.shape);
  w.parts[1] = world.empty(DType::f32, {dense.shape[0]});
  quant::int8_pack(world, w, dense);
  return w;
}

// As processors without units for 8-bit codes do it and, where this one has them, by these.
std::vector<DeviceSpec> ways() {
  std::vector<DeviceSpec> all(1);
  if (!tests_run_on_cuda() && this_cpu().sums_int8) all.push_back({.sums_int8 = true});
  return all;
}

Numbers numbers_of(const Tensor& t) {
  Numbers x(size_t(t.count()));
  for (size_t i = 0; i < x.size(); ++i) x[i] = read_number(static_cast<const std::byte*>(t.data), t.dtype, int64_t(i));
  return x;
}

TEST(LlmInt8, ForwardAndBackwardAreBitsandbytes) {
  const store::SafetensorsFile golden(golden_folder() / "llm_int8.safetensors");
  for (const DeviceSpec& way : ways())
    for (const char* name : {"none", "some", "many"}) {
      World world(device_under_test(way));
      const auto given = [&](const char* key) {
        const Tensor t = golden.tensor(std::string(name) + "." + key);
        return world.from(t.dtype, t.shape, numbers_of(t));
      };
      const quant::Weight w = pack(world, given("weight"));
      const Tensor x = given("x"), y = world.empty(DType::f32, golden.tensor(std::string(name) + ".y").shape), dx = world.empty(DType::f32, x.shape);
      linear(world, y, x, w);
      linear_backward_input(world, dx, given("dy"), w);
      EXPECT_LE(relative_error(world.read(y), numbers_of(golden.tensor(std::string(name) + ".y"))), 2e-6) << name;
      EXPECT_LE(relative_error(world.read(dx), numbers_of(golden.tensor(std::string(name) + ".dx"))), 1e-6) << name;
    }
}

// The arithmetic in float64, with the columns that stay out chosen by `stays_out`.
Numbers emulated(const Numbers& x, const Numbers& codes, const Numbers& absmax, const Shape& sizes, double threshold) {
  const int64_t tokens = sizes[0], rows = sizes[1], columns = sizes[2];
  std::vector<bool> out(static_cast<size_t>(columns));
  for (size_t i = 0; i < x.size(); ++i)
    if (std::abs(x[i]) >= threshold) out[i % size_t(columns)] = true;
  Numbers y(size_t(tokens * rows));
  for (int64_t t = 0; t < tokens; ++t) {
    double most = 0;
    for (int64_t k = 0; k < columns; ++k)
      if (const double v = std::abs(x[size_t(t * columns + k)]); v < threshold) most = std::max(most, v);
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t k = 0; k < columns; ++k) {
        const double v = x[size_t(t * columns + k)], w = codes[size_t(n * columns + k)] * absmax[size_t(n)] / 127;
        const double rounded = most > 0 ? double(std::nearbyint(float(v) * (127.0f / float(most)))) * most / 127 : 0;
        y[size_t(t * rows + n)] += (out[size_t(k)] ? v : rounded) * w;
      }
  }
  return y;
}

// x with `outliers` columns of 7 and, in the first `larger` of them, of 40.
Numbers activations(World& world, DType type, int64_t tokens, int64_t columns, int64_t outliers, int64_t larger) {
  Numbers x = world.read(world.normal(type, {tokens, columns}, 2, 0.8));
  for (double& v : x) v = float(f16(float(v)));  // as the codes are made of it
  for (int64_t j = 0; j < outliers; ++j) x[size_t((j * 5 % tokens) * columns + j * 3)] = j < larger ? -40 : 7;
  return x;
}

TEST(LlmInt8, ItsArithmeticInFloat64UpToAndBeyondTheCap) {
  constexpr int64_t tokens = 21, rows = 19, columns = 150;
  ASSERT_EQ(outlier_cap(columns), 16);
  for (const DeviceSpec& way : ways())
    for (const DType type : {DType::f32, DType::bf16})
      for (const bool add : {false, true})
        for (const auto& [outliers, larger, threshold] : {std::tuple<int64_t, int64_t, double>{0, 0, 6}, {3, 1, 6}, {16, 0, 6}, {40, 10, 12}, {40, 40, 48}}) {
          SCOPED_TRACE(fmt::format("{} {} outliers, {} of them larger, add {}", label(type), outliers, larger, add));
          World world(device_under_test(way));
          const quant::Weight w = pack(world, world.normal(DType::f32, {rows, columns}, 1, 0.1));
          const Numbers values = activations(world, type, tokens, columns, outliers, larger);
          const Tensor x = world.from(type, {tokens, columns}, values), y = world.normal(type, {tokens, rows}, 3);
          Numbers expected = emulated(world.read(x), world.read(w.parts[0]), world.read(w.parts[1]), {tokens, rows, columns}, threshold);
          if (add)
            for (size_t i = 0; i < expected.size(); ++i) expected[i] += world.read(y)[i];
          const int64_t used = world.stream().arena.used();
          llm_int8(world, y, x, w, add ? y : Tensor{});
          EXPECT_EQ(world.stream().arena.used(), used);
          EXPECT_LE(relative_error(world.read(y), expected), tolerance(type));
        }
}

TEST(LlmInt8, WhatIsNoNumberStaysNone) {
  constexpr int64_t tokens = 9, rows = 20, columns = 70;
  for (const DeviceSpec& way : ways()) {
    World world(device_under_test(way));
    const quant::Weight w = pack(world, world.normal(DType::f32, {rows, columns}, 1, 0.1));
    Numbers values = activations(world, DType::f32, tokens, columns, 3, 1);
    values[4 * columns + 33] = NAN;
    const Tensor y = world.empty(DType::f32, {tokens, rows});
    llm_int8(world, y, world.from(DType::f32, {tokens, columns}, values), w);
    const Numbers all = world.read(y);
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(std::isnan(all[i]), i / rows == 4) << i;
  }
}

TEST(LlmInt8, APhantomTakesAndRunsTheSame) {
  const auto go = [](World& world) {
    for (const int64_t tokens : {9, 1500})
      for (const DType type : {DType::f32, DType::bf16}) {
        const Scope scope(world.stream().arena);
        const quant::Weight w = pack(world, world.normal(type, {33, 70}, 1));
        llm_int8(world, world.empty(type, {tokens, 33}), world.normal(type, {tokens, 70}, 2), w);
      }
  };
  for (const DeviceSpec& way : ways()) {
    World real(device_under_test(way)), phantom(phantom_device(spec_under_test(way)));
    go(real);
    go(phantom);
    EXPECT_EQ(difference(real.ledger(), phantom.ledger()), "");
    EXPECT_GT(real.ledger().entries().size(), 76u);
  }
}

}  // namespace
}  // namespace thimble::ops
