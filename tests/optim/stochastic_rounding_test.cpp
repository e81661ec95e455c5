// Rounding that keeps the mean: beside torchao's on the same draws (tests/golden/rounding.py), its mean beside the number itself, and every rule on bf16
// parameters beside the same rule on f32 ones.
#include "optim/stochastic_rounding.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "golden_folder.h"
#include "optim/optimizer.h"
#include "quant/rig.h"
#include "store/safetensors.h"

namespace thimble::optim {
namespace {

using testing::Rig;

constexpr uint64_t golden_seed = 0x123456789ABCDEF;

// A whole tensor, group by group.
std::vector<bf16> rounded(const std::vector<float>& x, const Draws16& d) {
  std::vector<bf16> y(x.size());
  for (size_t first = 0; first < x.size(); first += draw_group)
    round_stochastically(y.data() + first, x.data() + first, int64_t(first), std::min(draw_group, int64_t(x.size() - first)), d);
  return y;
}

float below(float x) { return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0xffff0000u); }  // toward zero
float gap_at(float x) { return std::bit_cast<float>((std::bit_cast<uint32_t>(x) & 0x7fff0000u) + 0x10000u) - std::fabs(below(x)); }

TEST(StochasticRounding, IsTorchaosOnTheSameDraws) {
  const store::SafetensorsFile file(golden_folder() / "rounding.safetensors");
  const Tensor x = file.tensor("x"), expected = file.tensor("rounded");
  ASSERT_GT(x.count(), 4500);
  const auto ours = rounded({x.get<float>(), x.get<float>() + x.count()}, {golden_seed, 3, 77});
  for (int64_t i = 0; i < x.count(); ++i) ASSERT_EQ(ours[size_t(i)].bits, expected.get<bf16>()[i].bits) << i << ": " << x.get<float>()[i];
}

TEST(StochasticRounding, KeepsTheMean) {
  constexpr int times = 4096, n = 3000;
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = std::pow(2.0f, 20 * uniform_at(1, 1, i) - 10) * normal_at(1, 2, i);
  std::vector<double> sum(n);
  for (uint32_t step = 1; step <= times; ++step) {
    const auto y = rounded(x, {42, step, 9});
    for (size_t i = 0; i < n; ++i) {
      const float inner = below(x[i]), outer = inner + std::copysign(gap_at(x[i]), x[i]);
      ASSERT_TRUE(float(y[i]) == inner || float(y[i]) == outer) << x[i] << " became " << float(y[i]);
      sum[i] += double(float(y[i]));
    }
  }
  double squares = 0, total = 0;
  for (size_t i = 0; i < n; ++i) {
    const double gap = gap_at(x[i]), share = std::fabs(double(x[i]) - double(below(x[i]))) / gap, deviation = gap * std::sqrt(share * (1 - share) / times);
    const double z = deviation > 0 ? (sum[i] / times - double(x[i])) / deviation : 0;
    EXPECT_LT(std::fabs(z), 5) << x[i];
    squares += z * z, total += z;
  }
  EXPECT_NEAR(squares / n, 1, 5 * std::sqrt(2.0 / n));  // as independent draws have it: not only right in the mean
  EXPECT_LT(std::fabs(total), 5 * std::sqrt(double(n)));
}

TEST(StochasticRounding, LeavesWhatIsRepresentable) {
  std::vector<float> x;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) x.push_back(std::bit_cast<float>(bits << 16));
  for (const uint32_t step : {1u, 2u, 3u}) {
    const auto y = rounded(x, {7, step, 1});
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i])) ASSERT_TRUE(std::isnan(float(y[i])));
      else ASSERT_EQ(uint32_t(y[i].bits), i);  // infinities, zeros and their signs too
    }
  }
  for (const uint32_t nan : {0x7f800001u, 0xffffffffu, 0x7fffffffu}) EXPECT_TRUE(std::isnan(float(rounded({std::bit_cast<float>(nan)}, {7, 1, 1})[0])));
}

// Seed, step, place and element: each changes what is drawn, and a tensor's length does not.
TEST(StochasticRounding, DrawsAreOfTheirPlace) {
  const std::vector<float> x(5000, 1.00390625f);  // half way between neighbours
  const auto ones = [](const std::vector<bf16>& y) {
    std::vector<bool> up;
    for (const bf16 v : y) up.push_back(float(v) > 1);
    return up;
  };
  const auto base = ones(rounded(x, {42, 1, 1}));
  const auto agreeing = [&](const std::vector<bool>& other) {
    double same = 0;
    for (size_t i = 0; i < x.size(); ++i) same += base[i] == other[i];
    return same / double(x.size());
  };
  for (const Draws16& d : {Draws16{43, 1, 1}, Draws16{42 | uint64_t{1} << 32, 1, 1}, Draws16{42, 2, 1}, Draws16{42, 1, 2}}) EXPECT_NEAR(agreeing(ones(rounded(x, d))), 0.5, 0.04);
  auto moved = base;
  for (const size_t by : {1, 256, 512, 2048}) {
    std::rotate(moved.begin(), moved.begin() + std::ptrdiff_t(by), moved.end());
    EXPECT_NEAR(agreeing(moved), 0.5, 0.04) << by;
  }
  const auto shorter = ones(rounded(std::vector<float>(x.begin(), x.begin() + 2100), {42, 1, 1}));
  EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), base.begin()));
}

Update take(Rig& rig, OptimizerId id, const Shape& shape, DType param, DType grad) {
  Update u{.param = rig.take(param, shape), .grad = rig.take(grad, shape), .weight_decay = 0.01f, .place = (uint32_t{1} << 31) + 5};
  int n = 0;
  const auto states = states_of(id, shape, n);
  for (size_t i = 0; i < size_t(n); ++i) u.states[i] = rig.take(states[i].dtype, states[i].shape);
  return u;
}

Tensor take_scalars(Rig& rig, int64_t t, double rate, uint64_t seed, const Hyper& hyper) {
  const Tensor scalars = rig.take(DType::f32, {scalar_count});
  const auto values = scalars_of(t, rate, 1, hyper, seed);
  std::memcpy(scalars.data, values.data(), sizeof values);
  return scalars;
}

TEST(StochasticRounding, TenStepsOfTorchaosAdamW) {
  const store::SafetensorsFile starts(golden_folder() / "optim.safetensors"), file(golden_folder() / "rounding.safetensors");
  for (const auto& [name, place] : {std::pair<std::string, uint32_t>{"matrix", (1u << 31) + 5}, {"vector", 6}, {"large", (1u << 31) + 7}}) {
    Rig rig;
    const Tensor start = starts.tensor(name + ".start"), expected = file.tensor(name + ".adamw");
    Update u = take(rig, OptimizerId::adamw, start.shape, DType::bf16, DType::bf16);
    u.place = place;
    for (int64_t i = 0; i < start.count(); ++i) u.param.get<bf16>()[i] = bf16(start.get<float>()[i]);
    zero_states(rig.stream, OptimizerId::adamw, std::span(&u, 1));
    for (int t = 1; t <= 10; ++t) {
      const Scope scope(rig.memory);
      starts.read(*starts.find(name + ".grads"), (t - 1) * u.grad.count(), u.grad);
      update(rig.stream, OptimizerId::adamw, std::span(&u, 1), take_scalars(rig, t, 1e-2, golden_seed, {}), {});
    }
    int64_t off = 0;
    for (int64_t i = 0; i < start.count(); ++i) off += u.param.get<bf16>()[i].bits != expected.get<bf16>()[i].bits;
    EXPECT_LE(off, 3) << name;  // where the last bit of an f32 update is another, a draw in 65536 rounds the other way
  }
}

// A step of every rule is the same step of f32 parameters, rounded; a gradient that comes in bf16 is the f32 one of these numbers.
TEST(StochasticRounding, EveryRuleTakesBf16Parameters) {
  const Hyper hyper{.momentum = 0.9f};
  const Shape shapes[] = {{70, 65}, {4100}, {129}, {3, 2050}, {1}};
  for (const Optimizer& o : optimizers()) {
    SCOPED_TRACE(o.name);
    for (const Shape& shape : shapes) {
      Rig rig;
      const Tensor scalars = take_scalars(rig, 1, 1e-2, 99, hyper);
      Update exact = take(rig, o.id, shape, DType::f32, DType::f32), with_f32 = take(rig, o.id, shape, DType::bf16, DType::f32), with_bf16 = take(rig, o.id, shape, DType::bf16, DType::bf16);
      testing::fill_normal(with_bf16.param, 1);
      testing::fill_normal(with_f32.grad, 2);
      for (int64_t i = 0; i < shape.count(); ++i) {
        with_f32.param.get<bf16>()[i] = with_bf16.param.get<bf16>()[i];
        exact.param.get<float>()[i] = float(with_bf16.param.get<bf16>()[i]);
        with_bf16.grad.get<bf16>()[i] = bf16(with_f32.grad.get<float>()[i]);
        exact.grad.get<float>()[i] = float(with_bf16.grad.get<bf16>()[i]);
      }
      const auto before = testing::bytes_of(with_bf16.param);
      for (Update* u : {&exact, &with_f32, &with_bf16}) {
        zero_states(rig.stream, o.id, std::span(u, 1));
        update(rig.stream, o.id, std::span(u, 1), scalars, hyper);
      }
      EXPECT_EQ(testing::bytes_of(with_f32.param), testing::bytes_of(with_bf16.param));
      EXPECT_NE(testing::bytes_of(with_bf16.param), before);
      for (size_t s = 0; s < 4 && exact.states[s]; ++s) EXPECT_EQ(testing::bytes_of(with_bf16.states[s]), testing::bytes_of(exact.states[s])) << s;
      const auto expected = rounded({exact.param.get<float>(), exact.param.get<float>() + shape.count()}, {99, 1, exact.place});
      int64_t off = 0;
      for (int64_t i = 0; i < shape.count(); ++i) off += with_bf16.param.get<bf16>()[i].bits != expected[size_t(i)].bits;
      EXPECT_EQ(off, 0);
    }
  }
}

TEST(StochasticRounding, DoesNotDependOnThreadsOrTheTable) {
  const int threads = thread_count();
  for (const Optimizer& o : optimizers()) {
    std::vector<std::vector<std::byte>> first;
    for (const int n : {1, 3}) {
      set_thread_count(n);
      Rig rig;
      std::vector<Update> updates;
      for (const int64_t count : {300, 9000, 2048, 4095}) updates.push_back(take(rig, o.id, {count}, DType::bf16, DType::f32)), updates.back().place = uint32_t(count);
      if (n == 3) std::swap(updates[0], updates[3]);
      for (const Update& u : updates) testing::fill_normal(u.param, u.place), testing::fill_normal(u.grad, u.place + 1);
      zero_states(rig.stream, o.id, updates);
      for (int64_t t = 1; t <= 3; ++t) update(rig.stream, o.id, updates, take_scalars(rig, t, 1e-3, 5, {}), {});
      if (n == 3) std::swap(updates[0], updates[3]);
      std::vector<std::vector<std::byte>> all;
      for (const Update& u : updates) all.push_back(testing::bytes_of(u.param));
      if (first.empty()) first = all;
      EXPECT_EQ(all, first) << o.name;
    }
  }
  set_thread_count(threads);
}

TEST(StochasticRounding, PhantomsRunTheSame) {
  for (const Optimizer& o : optimizers()) {
    Rig real, phantom(true);
    for (Rig* rig : {&real, &phantom}) {
      const Update u = take(*rig, o.id, {70, 64}, DType::bf16, DType::bf16);
      const Tensor scalars = rig->take(DType::f32, {scalar_count});
      if (rig == &real) std::memset(u.param.data, 0, size_t(u.param.bytes())), std::memset(u.grad.data, 0, size_t(u.grad.bytes())), std::memset(scalars.data, 0, size_t(scalars.bytes()));
      zero_states(rig->stream, o.id, std::span(&u, 1));
      update(rig->stream, o.id, std::span(&u, 1), scalars, {});
    }
    EXPECT_EQ(difference(real.ledger, phantom.ledger), "") << o.name;
  }
}

// Steps of a 50th of the gap between neighbours: rounding to the nearest would lose every one.
TEST(StochasticRounding, SmallStepsArrive) {
  Rig rig;
  constexpr int64_t n = 4096;
  constexpr int steps = 500;
  const float gap = gap_at(1.5f);
  Update u = take(rig, OptimizerId::sgd, {n}, DType::bf16, DType::f32);
  u.weight_decay = 0;
  std::fill_n(u.param.get<bf16>(), n, bf16(1.5f));
  std::fill_n(u.grad.get<float>(), n, 1.0f);
  ASSERT_EQ(float(bf16(1.5f - gap / 50)), 1.5f);
  for (int64_t t = 1; t <= steps; ++t) {
    const Scope scope(rig.memory);
    update(rig.stream, OptimizerId::sgd, std::span(&u, 1), take_scalars(rig, t, double(gap) / 50, 3, {}), {});
  }
  double mean = 0;
  for (const double p : testing::as_doubles(u.param)) mean += p / n;
  const double deviation = gap * std::sqrt(steps * 0.02 * 0.98 / n);
  EXPECT_NEAR(mean, 1.5 - steps * double(gap) / 50, 5 * deviation);
}

}  // namespace
}  // namespace thimble::optim
