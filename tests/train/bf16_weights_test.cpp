// What weights in bf16 cost in loss: rounded as the optimizers round them nothing that noise would not, rounded to the nearest nearly all that is learned.
#include "train/fixture.h"

namespace thimble::train {
namespace {

constexpr int64_t steps = 300;
constexpr double rate = 1e-4;  // an eighth of half a gap between neighbours, for most weights

// The mean loss of the last twenty steps, over eight batches again and again. `nearest`: after each step the weights are rounded so.
double loss_after(DType dtype, uint64_t seed, bool nearest = false) {
  const Setup setup{.model = tiny_model(2, false), .method = full(dtype), .optimizer = optim::OptimizerId::adamw, .tokens_per_row = 64, .seed = seed};
  const auto plan = plan_of(setup.model, nn::all(nn::Save::keep), 2, false);
  const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
  const auto device = device_under_test(f32_cpu());
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2], outcome.peak[3]});
  Trainer trainer(rank, setup, plan);
  trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
  const auto round_to_nearest = [&] {
    for (const auto& t : trainer.model().trained())
      for (int64_t i = 0; i < t.value.count(); ++i) t.value.get<float>()[i] = float(bf16(t.value.get<float>()[i]));
  };
  if (dtype == DType::f32) round_to_nearest();  // all begin alike
  double last = 0;
  for (int64_t s = 0; s < steps; ++s) {
    const auto r = trainer.step(std::vector<data::MicroBatch>{random_batch(setup.model, 61, uint64_t(s % 8))}, rate);
    if (s >= steps - 20) last += r.loss / 20;
    if (nearest) round_to_nearest();
  }
  return last;
}

TEST(Bf16Weights, LearnWhatF32WeightsLearn) {
  const double exact = loss_after(DType::f32, 1), nearest = loss_after(DType::f32, 1, true);
  for (const uint64_t seed : {1, 2}) EXPECT_NEAR(loss_after(DType::bf16, seed), exact, 0.03) << seed;  // of a loss that began above 5
  EXPECT_GT(nearest, exact + 1);
}

}  // namespace
}  // namespace thimble::train
