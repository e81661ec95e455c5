// Both rules against bitsandbytes and PyTorch on a CUDA card: ten steps that tests/golden/make_gpu.py recorded.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "golden_folder.h"
#include "optim/optimizer.h"
#include "quant/dynamic8.h"
#include "quant/rig.h"
#include "store/safetensors.h"

namespace thimble::optim {
namespace {

using testing::Rig;
const auto path = golden_folder() / "adam8bit.safetensors";
constexpr int64_t sizes[] = {4096, 5000, 300};
constexpr int steps = 10;

struct Training {
  Rig rig;
  Update update;
  Tensor scalars;

  Training(OptimizerId id, const store::SafetensorsFile& file, const std::string& name) {
    const Tensor from = file.tensor(name + ".start");
    update = {.param = rig.take(DType::f32, {from.count()}), .grad = rig.take(DType::f32, {from.count()}), .weight_decay = 0.01f};
    std::memcpy(update.param.data, from.data, size_t(from.bytes()));
    int n = 0;
    const auto states = states_of(id, {from.count()}, n);
    for (size_t i = 0; i < size_t(n); ++i) update.states[i] = rig.take(states[i].dtype, states[i].shape);
    scalars = rig.take(DType::f32, {scalar_count});
    zero_states(rig.stream, id, std::span(&update, 1));
  }

  void step(OptimizerId id, const store::SafetensorsFile& file, const std::string& name, int t) {
    std::memcpy(update.grad.data, file.tensor(name + ".grads").rows(t - 1, 1).data, size_t(update.grad.bytes()));
    const auto values = scalars_of(t, 1e-3, 1, {});
    std::copy(values.begin(), values.end(), scalars.get<float>());
    thimble::optim::update(rig.stream, id, std::span(&update, 1), scalars, {});
  }
};

double largest_difference(const Tensor& a, const Tensor& b) {
  double most = 0;
  const auto x = testing::as_doubles(a), y = testing::as_doubles(b);
  EXPECT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(x[i] - y[i]));
  return most;
}

int64_t elements_off(const Tensor& a, const Tensor& b, double tolerance) {
  const auto x = testing::as_doubles(a), y = testing::as_doubles(b);
  int64_t off = 0;
  for (size_t i = 0; i < x.size(); ++i) off += std::abs(x[i] - y[i]) > tolerance;
  return off;
}

// Codes differ where a value lies within a rounding of a midpoint: the card's division is an approximate one. Where absmax is 0 they say
// nothing.
int64_t codes_off(const Tensor& a, const Tensor& b, const Tensor& absmax) {
  int64_t off = 0;
  for (int64_t i = 0; i < a.count(); ++i) {
    if (absmax.get<float>()[i / 256] == 0) continue;
    const int d = std::abs(int(a.get<uint8_t>()[i]) - int(b.get<uint8_t>()[i]));
    EXPECT_LE(d, 1) << i;
    off += d;
  }
  return off;
}

}  // namespace

TEST(AdamGolden, AdamWIsPyTorchs) {
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there: make_gpu.py makes it on a CUDA card";
  const store::SafetensorsFile file(path);
  for (const int64_t size : sizes) {
    const std::string name = std::to_string(size);
    Training training(OptimizerId::adamw, file, name);
    for (int t = 1; t <= steps; ++t) training.step(OptimizerId::adamw, file, name, t);
    EXPECT_LT(largest_difference(training.update.param, file.tensor(name + ".torch10.param")), 1e-6) << name;
  }
}

TEST(AdamGolden, EightBitIsBitsandbytes) {
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there: make_gpu.py makes it on a CUDA card";
  const store::SafetensorsFile file(path);
  for (int i = 0; i < 256; ++i) {
    EXPECT_EQ(quant::signed_map()[i], file.tensor("map1").get<float>()[i]);
    EXPECT_EQ(quant::unsigned_map()[i], file.tensor("map2").get<float>()[i]);
  }
  for (const int64_t size : sizes) {
    const std::string name = std::to_string(size);
    Training training(OptimizerId::adamw_8bit, file, name);
    for (int t = 1; t <= steps; ++t) {
      training.step(OptimizerId::adamw_8bit, file, name, t);
      if (t != 1 && t != steps) continue;
      SCOPED_TRACE(name + " step " + std::to_string(t));
      const std::string now = name + ".step" + std::to_string(t);
      const auto& states = training.update.states;
      // A code of v on the other side of a midpoint, in one step, moves its element's later steps.
      EXPECT_LE(elements_off(training.update.param, file.tensor(now + ".param"), t == 1 ? 1e-6 : 2e-5), t == 1 ? 0 : size / 500);
      if (size < 4096) {
        EXPECT_LT(largest_difference(states[0], file.tensor(now + ".state1")), 1e-6);
        EXPECT_LT(largest_difference(states[1], file.tensor(now + ".state2")), 1e-6);
        continue;
      }
      EXPECT_LE(codes_off(states[0], file.tensor(now + ".state1"), states[2]), size / 200);
      EXPECT_LE(codes_off(states[1], file.tensor(now + ".state2"), states[3]), size / 200);
      EXPECT_LT(largest_difference(states[2], file.tensor(now + ".absmax1")), 1e-5);
      EXPECT_LT(largest_difference(states[3], file.tensor(now + ".absmax2")), 1e-5);
    }
  }
}

}  // namespace thimble::optim
