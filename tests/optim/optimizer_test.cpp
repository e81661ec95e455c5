// The update rules against plain scalar ones written here, their table, and what holds for each: threads, phantoms, sizes.
#include "optim/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/dynamic8.h"
#include "quant/rig.h"

namespace thimble::optim {
namespace {

using testing::Rig;

constexpr OptimizerId both[] = {OptimizerId::adamw, OptimizerId::adamw_8bit};
constexpr int64_t sizes[] = {5000, 300, 4096, 1, 20000, 4095};

struct Table {
  std::vector<Update> updates;
  Tensor scalars;
};

Table take_table(Rig& rig, OptimizerId id, std::span<const int64_t> counts, float decay = 0.01f) {
  Table table{.scalars = rig.take(DType::f32, {scalar_count})};
  for (const int64_t count : counts) {
    Update u{.param = rig.take(DType::f32, {count}), .grad = rig.take(DType::f32, {count}), .weight_decay = decay};
    int n = 0;
    const auto states = states_of(id, {count}, n);
    for (size_t i = 0; i < size_t(n); ++i) u.states[i] = rig.take(states[i].dtype, states[i].shape);
    table.updates.push_back(u);
  }
  return table;
}

void set_scalars(const Table& table, int64_t t, double rate, double scale, const Hyper& hyper) {
  const auto s = scalars_of(t, rate, scale, hyper);
  std::copy(s.begin(), s.end(), table.scalars.get<float>());
}

// Gradients around a mean for each element, over four decades between blocks of 256, one in 50 zero.
void fill_gradient(Tensor g, uint64_t tensor, int64_t step) {
  for (int64_t i = 0; i < g.count(); ++i) {
    const float size = std::pow(10.0f, -4 * uniform_at(1, 100 + tensor, uint64_t(i / 256)));
    const float value = size * (normal_at(1, 200 + tensor, uint64_t(i)) + normal_at(2, 300 + tensor, uint64_t(step * 1000000 + i)));
    g.get<float>()[i] = uniform_at(3, 400 + tensor, uint64_t(step * 1000000 + i)) < 0.02f ? 0.0f : value;
  }
}

void start(Rig& rig, OptimizerId id, const Table& table) {
  zero_states(rig.stream, id, table.updates);
  for (size_t k = 0; k < table.updates.size(); ++k) testing::fill_normal(table.updates[k].param, 500 + k, 0.1f);
}

std::vector<std::vector<std::byte>> everything(const Table& table) {
  std::vector<std::vector<std::byte>> all;
  for (const Update& u : table.updates) {
    all.push_back(testing::bytes_of(u.param));
    for (const Tensor& t : u.states)
      if (t) all.push_back(testing::bytes_of(t));
  }
  return all;
}

}  // namespace

TEST(Optimizers, ByName) {
  for (const Optimizer& o : optimizers()) {
    EXPECT_EQ(&optimizer(o.id), &o);
    EXPECT_EQ(&optimizer(o.name), &o);
  }
  try {
    optimizer("adamw8bit");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::usage);
    EXPECT_NE(std::string(e.what()).find("'adamw_8bit'"), std::string::npos) << e.what();
  }
}

TEST(Optimizers, States) {
  int n = 0;
  auto s = states_of(OptimizerId::adamw, {5000}, n);
  EXPECT_EQ(n, 2);
  EXPECT_EQ(s[1].shape, Shape{5000});
  EXPECT_EQ(state_bytes(OptimizerId::adamw, {5000}), 2 * aligned(20000));
  s = states_of(OptimizerId::adamw_8bit, {5000}, n);
  EXPECT_EQ(n, 4);
  EXPECT_EQ(s[0].dtype, DType::u8);
  EXPECT_EQ(s[2].shape, Shape{20});
  EXPECT_EQ(state_bytes(OptimizerId::adamw_8bit, {5000}), 2 * aligned(5000) + 2 * aligned(80));
  s = states_of(OptimizerId::adamw_8bit, {4095}, n);
  EXPECT_EQ(n, 2);
  EXPECT_EQ(s[0].dtype, DType::f32);
  states_of(OptimizerId::adamw_8bit, {4096}, n);
  EXPECT_EQ(n, 4);
}

TEST(Optimizers, WrongStatesAreRefused) {
  Rig rig(true);
  for (const OptimizerId id : both) {
    const int64_t counts[] = {5000};
    Table table = take_table(rig, id, counts);
    EXPECT_NO_THROW(update(rig.stream, id, table.updates, table.scalars, {}));
    const Update good = table.updates[0];
    table.updates[0].states[1] = rig.take(DType::i32, {5000});
    EXPECT_THROW(update(rig.stream, id, table.updates, table.scalars, {}), Error);
    table.updates[0] = good;
    table.updates[0].grad = rig.take(DType::f32, {4999});
    EXPECT_THROW(update(rig.stream, id, table.updates, table.scalars, {}), Error);
    table.updates[0] = good;
    for (const auto& [param, grad] : {std::pair{DType::f16, DType::f32}, {DType::f32, DType::bf16}, {DType::bf16, DType::f16}}) {
      table.updates[0].param = rig.take(param, {5000}), table.updates[0].grad = rig.take(grad, {5000});
      EXPECT_THROW(update(rig.stream, id, table.updates, table.scalars, {}), Error);
    }
    table.updates[0] = good;
    EXPECT_THROW(update(rig.stream, id, table.updates, rig.take(DType::f32, {3}), {}), Error);
  }
}

TEST(Optimizers, ScalarsOfAStep) {
  const auto s = scalars_of(3, 1e-3, 0.5, {});
  EXPECT_EQ(s[learning_rate], 1e-3f);
  EXPECT_FLOAT_EQ(s[bias1], 1.0f - 0.9f * 0.9f * 0.9f);
  EXPECT_NEAR(s[sqrt_bias2], std::sqrt(1 - 0.999 * 0.999 * 0.999), 1e-6);
  EXPECT_EQ(s[grad_scale], 0.5f);
}

TEST(Optimizers, ZeroStatesDecodeToZero) {
  Rig rig;
  const Table table = take_table(rig, OptimizerId::adamw_8bit, sizes);
  for (const Update& u : table.updates)
    for (const Tensor& t : u.states)
      if (t) std::memset(t.data, 0xa5, size_t(t.bytes()));
  zero_states(rig.stream, OptimizerId::adamw_8bit, table.updates);
  for (const Update& u : table.updates) {
    if (u.param.count() < 4096) {
      for (size_t i = 0; i < 2; ++i)
        for (const double x : testing::as_doubles(u.states[i])) ASSERT_EQ(x, 0);
      continue;
    }
    for (int64_t i = 0; i < u.param.count(); ++i) {
      ASSERT_EQ(quant::signed_map()[u.states[0].get<uint8_t>()[i]], 0.0f);
      ASSERT_EQ(quant::unsigned_map()[u.states[1].get<uint8_t>()[i]], 0.0f);
    }
    for (size_t i = 2; i < 4; ++i)
      for (const double x : testing::as_doubles(u.states[i])) ASSERT_EQ(x, 0);
  }
}

TEST(AdamW, IsTheDoubleOne) {
  constexpr double scale = 0.7, decay = 0.01f;
  const Hyper hyper{.beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-6f};
  const double b1 = hyper.beta1, b2 = hyper.beta2, eps = hyper.eps;
  Rig rig;
  const Table table = take_table(rig, OptimizerId::adamw, sizes);
  start(rig, OptimizerId::adamw, table);
  struct State { std::vector<double> p, m, v; };
  std::vector<State> all;
  for (const Update& u : table.updates) {
    const size_t n = size_t(u.param.count());
    all.push_back({testing::as_doubles(u.param), std::vector<double>(n), std::vector<double>(n)});
  }
  for (int64_t t = 1; t <= 10; ++t) {
    const double rate = 1e-3 * double(t);
    for (size_t k = 0; k < table.updates.size(); ++k) fill_gradient(table.updates[k].grad, k, t);
    set_scalars(table, t, rate, scale, hyper);
    update(rig.stream, OptimizerId::adamw, table.updates, table.scalars, hyper);
    for (size_t k = 0; k < all.size(); ++k) {
      auto& [p, m, v] = all[k];
      for (size_t i = 0; i < p.size(); ++i) {
        const double g = scale * double(table.updates[k].grad.get<float>()[i]);
        p[i] *= 1 - rate * decay;
        m[i] = b1 * m[i] + (1 - b1) * g;
        v[i] = b2 * v[i] + (1 - b2) * g * g;
        p[i] -= rate / (1 - std::pow(b1, double(t))) * m[i] / (std::sqrt(v[i]) / std::sqrt(1 - std::pow(b2, double(t))) + eps);
        const double ours = table.updates[k].param.get<float>()[i];
        ASSERT_NEAR(ours, p[i], 3e-7 * std::abs(p[i]) + 1e-7 * double(t)) << k << " " << i << " step " << t;
      }
    }
  }
}

// Decay alone: a zero gradient leaves p * (1 - lr wd) under both rules.
TEST(Optimizers, DecayIsDecoupled) {
  for (const OptimizerId id : both) {
    Rig rig;
    const Table table = take_table(rig, id, sizes, 0.5f);
    start(rig, id, table);
    const auto before = testing::as_doubles(table.updates[0].param);
    for (const Update& u : table.updates) std::memset(u.grad.data, 0, size_t(u.grad.bytes()));
    set_scalars(table, 1, 0.1, 1, {});
    update(rig.stream, id, table.updates, table.scalars, {});
    for (size_t i = 0; i < before.size(); ++i) ASSERT_FLOAT_EQ(table.updates[0].param.get<float>()[i], float(before[i] * 0.95));
  }
}

TEST(Optimizers, DoNotDependOnThreads) {
  const int threads = thread_count();
  for (const OptimizerId id : both) {
    std::vector<std::vector<std::byte>> first;
    for (const int n : {1, 2, 3}) {
      set_thread_count(n);
      Rig rig;
      const Table table = take_table(rig, id, sizes);
      start(rig, id, table);
      for (int64_t t = 1; t <= 4; ++t) {
        for (size_t k = 0; k < table.updates.size(); ++k) fill_gradient(table.updates[k].grad, k, t);
        set_scalars(table, t, 1e-3, 1, {});
        update(rig.stream, id, table.updates, table.scalars, {});
      }
      if (first.empty()) first = everything(table);
      EXPECT_EQ(everything(table), first) << optimizer(id).name << ", " << n << " threads";
    }
  }
  set_thread_count(threads);
}

// A tensor's step does not depend on what else is in the table.
TEST(Optimizers, TensorsAreIndependent) {
  for (const OptimizerId id : both) {
    Rig rig;
    const Table together = take_table(rig, id, sizes), apart = take_table(rig, id, sizes);
    for (const Table* table : {&together, &apart}) {
      start(rig, id, *table);
      for (size_t k = 0; k < table->updates.size(); ++k) fill_gradient(table->updates[k].grad, k, 1);
      set_scalars(*table, 1, 1e-3, 1, {});
    }
    update(rig.stream, id, together.updates, together.scalars, {});
    for (const Update& u : apart.updates) update(rig.stream, id, std::span(&u, 1), apart.scalars, {});
    EXPECT_EQ(everything(together), everything(apart));
  }
}

TEST(Optimizers, PhantomRunsTheSameAndTouchesNothing) {
  const auto go = [](Rig& rig) {
    for (const OptimizerId id : both) {
      const Table table = take_table(rig, id, sizes);
      if (!rig.device->is_phantom()) {
        std::memset(table.scalars.data, 0, size_t(table.scalars.bytes()));
        table.scalars.get<float>()[bias1] = 1;
        for (const Update& u : table.updates) std::memset(u.grad.data, 0, size_t(u.grad.bytes()));
      }
      zero_states(rig.stream, id, table.updates);
      update(rig.stream, id, table.updates, table.scalars, {});
    }
  };
  Rig real, phantom(true);
  go(real);
  go(phantom);
  EXPECT_EQ(difference(real.ledger, phantom.ledger), "");
}

}  // namespace thimble::optim
