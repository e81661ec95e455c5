// A loss or a norm that is not a number makes the step one that never was, whatever optimizer, clipped or not: weights, optimizer states and its count
// stay, bit for bit. So no state, of 8 bits or of 32, ever holds anything but numbers.
#include "train/fixture.h"

namespace thimble::train {
namespace {

struct Bad { const char* name; float value; };

// Trains four steps; before the third, one that is poisoned where `bad` says so.
Trace trained(const Setup& setup, int resident, bool paged, const Bad* bad, int64_t element = 0) {
  const auto plan = plan_of(setup.model, nn::all(nn::Save::keep), resident, paged);
  const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
  const auto device = device_under_test(f32_cpu());
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
  Trainer trainer(rank, setup, plan);
  trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
  Trace trace;
  for (uint64_t s = 0; s < 4; ++s) {
    if (s == 2 && bad) {
      // The head's rows: of a token that the batch asks for, so that the loss feels it.
      const Tensor rows = trainer.model().trained()[setup.method.trains_weights() ? size_t(nn::head_index) : 0].value;
      visit_float(rows.dtype, [&]<class T>(T) {
        T& poisoned = rows.get<T>()[element];
        const T kept = poisoned;
        poisoned = T(bad->value);
        std::vector<data::MicroBatch> window{random_batch(setup.model, 40, 50)};
        window[0].targets[3] = 7;
        const auto r = trainer.step(window, 1e-2);
        EXPECT_FALSE(r.finite()) << bad->name << ": loss " << r.loss << ", norm " << r.grad_norm;
        poisoned = kept;
      });
      EXPECT_EQ(trainer.steps(), 2);
    }
    const std::vector<data::MicroBatch> window{random_batch(setup.model, 40, s)};
    const auto r = trainer.step(window, 1e-2);
    EXPECT_TRUE(r.finite());
    trace.numbers.insert(trace.numbers.end(), {r.loss, r.grad_norm});
  }
  trainer.save([&](const store::ParamSpec&, Tensor rows) { append(trace.values, rows); });
  return trace;
}

void stays_as_it_was(const nn::Method& method, int64_t hidden) {
  for (const optim::Optimizer& optimizer : optim::optimizers())
    for (const auto& [resident, paged] : {std::pair{3, false}, {3, true}, {1, true}})
      for (const float most : {1.0f, 0.0f}) {  // clipped, and not
        if (resident == 3 && paged && optimizer.id != optim::OptimizerId::adamw && optimizer.id != optim::OptimizerId::adamw_8bit) continue;
        Setup setup{.model = tiny_model(3, false), .method = method, .optimizer = optimizer.id, .hyper = {.momentum = 0.9f}, .weight_decay = 0.1f, .max_grad_norm = most, .tokens_per_row = 40};
        const Trace clean = trained(setup, resident, paged, nullptr);
        for (const Bad& bad : {Bad{"NaN", NAN}, {"infinity", INFINITY}, {"a gradient whose square overflows", 1e30f}}) {
          if (!method.trains_weights() && std::isfinite(bad.value)) continue;  // its way to the loss is through norms, which tame it
          SCOPED_TRACE(fmt::format("{}, {}, {} resident, paged {}, max_grad_norm {}", bad.name, optimizer.name, resident, paged, most));
          EXPECT_TRUE(trained(setup, resident, paged, &bad, 7 * hidden) == clean);
        }
      }
}

TEST(NotFinite, AFullStepChangesNothing) { stays_as_it_was(full(), tiny_model().hidden); }
TEST(NotFinite, AFullStepInBf16ChangesNothing) { stays_as_it_was(full(DType::bf16), tiny_model().hidden); }
TEST(NotFinite, AnAdaptersStepChangesNothing) { stays_as_it_was(lora(quant::FormatId::nf4), 1); }

}  // namespace
}  // namespace thimble::train
