// The rules beside AdamW: ten steps next to torch's, transformers' and lion-pytorch's (tests/golden/optim.py); rates by parameter.
#include <gtest/gtest.h>

#include <cmath>

#include "golden_folder.h"
#include "optim/optimizer.h"
#include "quant/rig.h"
#include "store/safetensors.h"

namespace thimble::optim {
namespace {

using testing::Rig;

struct Rule { OptimizerId id; const char* name; double tolerance; };
constexpr Rule rules[] = {{OptimizerId::sgd, "sgd", 1e-6}, {OptimizerId::sgd_momentum, "sgd_momentum", 1e-6}, {OptimizerId::lion, "lion", 1e-6},
                          {OptimizerId::adafactor, "adafactor", 2e-6}, {OptimizerId::adamw_bf16, "adamw_bf16", 1e-5}};

Update take(Rig& rig, OptimizerId id, const Shape& shape) {
  Update u{.param = rig.take(DType::f32, shape), .grad = rig.take(DType::f32, shape), .weight_decay = 0.01f};
  int n = 0;
  const auto states = states_of(id, shape, n);
  for (size_t i = 0; i < size_t(n); ++i) u.states[i] = rig.take(states[i].dtype, states[i].shape);
  return u;
}

void step(Rig& rig, OptimizerId id, std::span<const Update> updates, const Tensor& scalars, int t, float scale = 1) {
  const Hyper hyper{.momentum = 0.9f};
  const auto values = scalars_of(t, 1e-2, scale, hyper);
  std::copy(values.begin(), values.end(), scalars.get<float>());
  update(rig.stream, id, updates, scalars, hyper);
}

TEST(Rules, TenStepsAsTheLibraries) {
  const store::SafetensorsFile file(golden_folder() / "optim.safetensors");
  for (const Rule& rule : rules) {
    Rig rig;
    const char* names[] = {"matrix", "vector", "large"};
    std::vector<Update> updates;
    for (const char* name : names) {
      const Tensor start = file.tensor(std::string(name) + ".start");
      updates.push_back(take(rig, rule.id, start.shape));
      std::memcpy(updates.back().param.data, start.data, size_t(start.bytes()));
    }
    const Tensor scalars = rig.take(DType::f32, {scalar_count});
    zero_states(rig.stream, rule.id, updates);
    for (int t = 1; t <= 10; ++t) {
      for (size_t i = 0; i < 3; ++i) {
        const std::string key = std::string(names[i]) + ".grads";
        const auto* info = file.find(key);
        file.read(*info, (t - 1) * updates[i].grad.count(), updates[i].grad);
      }
      step(rig, rule.id, updates, scalars, t);
    }
    for (size_t i = 0; i < 3; ++i) {
      const Tensor expected = file.tensor(std::string(names[i]) + "." + rule.name);
      double worst = 0;
      int64_t off = 0;
      for (int64_t e = 0; e < expected.count(); ++e) {
        const double by = std::fabs(double(updates[i].param.get<float>()[e]) - double(expected.get<float>()[e]));
        worst = std::max(worst, by);
        off += by > rule.tolerance;
      }
      // A moment whose rounding to bf16 falls the other way moves its element by a 256th of each later step: few do.
      const bool rounded = rule.id == OptimizerId::adamw_bf16;
      EXPECT_LE(off, rounded ? expected.count() / 50 : 0) << rule.name << " " << names[i];
      EXPECT_LE(worst, rounded ? 1e-3 : rule.tolerance) << rule.name << " " << names[i];
    }
  }
}

// A rate of its own, threads, a phantom, and a step that is no number: for every rule of the table.
TEST(Rules, RatesThreadsPhantomsAndStepsThatAreNoNumbers) {
  for (const Optimizer& o : optimizers()) {
    SCOPED_TRACE(o.name);
    const auto run = [&](Rig& rig, float rate, float scale) {
      std::vector<Update> updates{take(rig, o.id, {70, 64}), take(rig, o.id, {129})};
      for (Update& u : updates) u.rate = rate;
      const Tensor scalars = rig.take(DType::f32, {scalar_count});
      if (!rig.device->is_phantom())
        for (size_t i = 0; i < 2; ++i) testing::fill_normal(updates[i].param, i), testing::fill_normal(updates[i].grad, i + 2);
      zero_states(rig.stream, o.id, updates);
      if (!rig.device->is_phantom()) step(rig, o.id, updates, scalars, 1, scale);
      else update(rig.stream, o.id, updates, scalars, {.momentum = 0.9f});
      return updates[0].param;
    };
    Rig one, twice, none, broken, phantom(true);
    const Tensor a = run(one, 1, 1), b = run(twice, 2, 1), c = run(none, 0, 1), d = run(broken, 1, NAN);
    run(phantom, 1, 1);
    EXPECT_EQ(difference(one.ledger, phantom.ledger), "");
    const auto before = [](int64_t i) { return normal_at(7, 0, uint64_t(i)); };
    double moved = 0;
    for (int64_t i = 0; i < a.count(); ++i) {
      const double by = double(a.get<float>()[i]) - double(before(i));
      EXPECT_NEAR(double(b.get<float>()[i]) - double(before(i)), 2 * by, 2e-6 + 1e-4 * std::fabs(by));  // decay and step both
      EXPECT_EQ(c.get<float>()[i], before(i));
      EXPECT_EQ(d.get<float>()[i], before(i));
      moved += std::fabs(by);
    }
    EXPECT_GT(moved, 0.1);
    const int threads = thread_count();
    set_thread_count(1);
    Rig alone;
    EXPECT_EQ(0, std::memcmp(run(alone, 1, 1).data, a.data, size_t(a.bytes())));
    set_thread_count(threads);
  }
}

}  // namespace
}  // namespace thimble::optim
