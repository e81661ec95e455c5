// Tuning in f16: the scale goes as torch's, a step that overflows is one that never was, losses and weights are near those of f32, and where bytes lie
// changes no bit.
#include "train/fixture.h"

namespace thimble::train {
namespace {

// torch 2.15's GradScaler("cpu"), gradients infinite at these steps.
TEST(LossScale, GoesAsTorchs) {
  const std::vector<int> bad{0, 1, 5, 1500, 3501, 3502, 9000};
  const std::vector<std::pair<int, double>> expected{{0, 32768}, {1, 16384}, {2, 16384}, {5, 8192}, {1499, 8192}, {1500, 4096}, {3499, 4096}, {3500, 8192}, {3501, 4096}, {3502, 2048},
                                                    {5501, 2048}, {5502, 4096}, {5503, 4096}, {7502, 8192}, {8999, 8192}, {9000, 4096}, {9099, 4096}};
  LossScale s = LossScale::of(DType::f16);
  auto next = expected.begin();
  for (int i = 0; i < 9100; ++i) {
    s.after(std::find(bad.begin(), bad.end(), i) == bad.end());
    if (next == expected.end() || next->first != i) continue;
    EXPECT_EQ(s.scale, (next++)->second) << i;
  }
  EXPECT_EQ(next, expected.end());
  EXPECT_EQ(s.skipped, std::ssize(bad));
  EXPECT_EQ(LossScale::of(DType::bf16).scale, 1);
  EXPECT_EQ(s.in(DType::f16), s);
  EXPECT_EQ(s.in(DType::bf16), (LossScale{.scale = 1, .skipped = s.skipped})) << "a run that goes on in another type";
  EXPECT_EQ(LossScale{}.in(DType::f16), LossScale::of(DType::f16));
  EXPECT_EQ(LossScale{}.in(DType::f32), LossScale{});
}

Setup setup_of(const nn::Method& method, float clip = 1) {
  return {.model = tiny_model(3, false), .method = method, .optimizer = optim::OptimizerId::adamw, .weight_decay = 0.01f, .max_grad_norm = clip, .tokens_per_row = 64};
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, squares = 0;
  for (size_t i = 0; i < b.size(); ++i) error += std::pow(double(a[i]) - b[i], 2), squares += std::pow(double(b[i]), 2);
  return error / squares;
}

TEST(LossScale, NearerToF32ThanBf16) {
  for (const auto& method : {full(), full(DType::bf16), lora(quant::FormatId::nf4), dora(quant::FormatId::dense), lora(quant::FormatId::int8)}) {
    const train::Setup setup = setup_of(method);
    const auto plan = plan_of(setup.model, nn::all(nn::Save::keep), 3, false);
    const Trace f32 = run(setup, plan, 61, 8), f16 = run(setup, plan, 61, 8, DType::f16);
    EXPECT_FALSE(f16 == f32);
    for (size_t i = 0; i + 1 < f32.numbers.size(); i += 2) {
      EXPECT_NEAR(f16.numbers[i], f32.numbers[i], 5e-3 * f32.numbers[i]) << "loss of step " << i / 2;
      if (i >= 8) continue;  // of weights that went apart
      EXPECT_NEAR(f16.numbers[i + 1], f32.numbers[i + 1], 3e-2 * f32.numbers[i + 1]) << "norm of step " << i / 2;
    }
    if (!multiplies_bf16()) continue;
    const Trace bf16 = run(setup, plan, 61, 8, DType::bf16);
    // Not where a code or a draw that falls the other way is a whole step.
    const bool smooth = method.weights.dtype == DType::f32 && method.format != quant::FormatId::int8;
    EXPECT_LT(distance(f16.values, f32.values), (smooth ? 0.5 : 2) * distance(bf16.values, f32.values));
  }
}

TEST(LossScale, WhereBytesLieChangesNoBit) {
  for (const float clip : {1.0f, 0.0f})
    for (const auto& method : {full(), lora(quant::FormatId::nf4)}) {
      const train::Setup setup = setup_of(method, clip);
      const Trace kept = run(setup, plan_of(setup.model, nn::all(nn::Save::keep), 3, false), 61, 4, DType::f16);
      for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
        for (const int resident : {3, 0})
          for (const int64_t window : {1, 3})
            EXPECT_TRUE(run(setup, in_windows(plan_of(setup.model, nn::all(save), resident, true), window, window > 1), 61, 4, DType::f16) == kept) << int(save) << resident << window;
    }
}

// Three updates from a scale: the numbers of those that were made and the trained values; the scale that they ended with, and what was left out.
struct Updates { Trace made; LossScale scale; };
Updates from_scale(const Setup& setup, int resident, double scale) {
  const DeviceSpec spec = f32_cpu(DType::f16);
  const auto plan = plan_of(setup.model, nn::all(nn::Save::keep), resident, false);
  const auto outcome = Trainer::rehearse(spec, setup, plan);
  const auto device = device_under_test(spec);
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
  Trainer trainer(rank, setup, plan);
  trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
  std::map<std::string, std::vector<float>> values;
  trainer.save([&](const store::ParamSpec& p, Tensor piece) { append(values[store::name_in_file(p)], piece); });
  trainer.restore(
      0, {.scale = scale}, [&](const store::ParamSpec& p, int64_t first, Tensor piece) { std::memcpy(piece.data, values.at(store::name_in_file(p)).data() + first, size_t(piece.bytes())); },
      [&](const std::string&, int64_t, Tensor piece) { std::memset(piece.data, 0, size_t(piece.bytes())); });  // a new AdamW's states
  Trace trace;
  while (trainer.steps() < 3 && !trainer.loss_scale().exhausted()) {
    const double before = trainer.loss_scale().scale;
    const auto r = trainer.step(three_batches(setup.model, 61, uint64_t(trainer.steps())), 1e-2);
    EXPECT_EQ(trainer.loss_scale().scale, r.finite() ? before : before / 2);
    if (r.finite()) trace.numbers.insert(trace.numbers.end(), {r.loss, r.grad_norm});
  }
  trainer.save([&](const store::ParamSpec&, Tensor rows) { append(trace.values, rows); });
  return {trace, trainer.loss_scale()};
}

TEST(LossScale, AStepThatOverflowsNeverWas) {
  for (const auto& method : {full(), lora(quant::FormatId::nf4)})
    for (const int resident : {3, 0})
      for (const float clip : {1.0f, 0.0f}) {
        const Updates overflowed = from_scale(setup_of(method, clip), resident, std::ldexp(1.0, 40));
        EXPECT_GT(overflowed.scale.skipped, 5);
        EXPECT_EQ(overflowed.made.numbers.size(), 6u);
        const Updates never = from_scale(setup_of(method, clip), resident, overflowed.scale.scale);
        EXPECT_EQ(never.scale.skipped, 0);
        EXPECT_TRUE(never.made == overflowed.made) << resident << " " << clip;
      }
}

}  // namespace
}  // namespace thimble::train
