// Once a run is under way the process's heap does not grow: a step gives back all that it takes outside the arenas.
#include <malloc.h>

#include "train/fixture.h"

namespace thimble::train {
namespace {

int64_t heap_bytes() {
  const auto info = ::mallinfo2();
  return int64_t(info.uordblks + info.hblkhd);
}

TEST(Allocations, AHundredStepsLeaveTheHeapAsItWas) {
  if (tests_run_on_cuda()) GTEST_SKIP() << "the driver's own heap grows, and is counted with ours";
  struct Case { const char* name; nn::Method method; nn::Save save; int resident; bool paged; };
  for (const Case& c : {Case{"full, kept", full(), nn::Save::keep, 3, false}, {"qlora, recomputed, streamed, paged", lora(quant::FormatId::nf4_dq), nn::Save::recompute, 0, true},
                        {"lora, offloaded", lora(quant::FormatId::dense), nn::Save::offload, 1, false}}) {
    SCOPED_TRACE(c.name);
    const train::Setup setup{.model = tiny_model(), .method = c.method, .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 37};
    const auto plan = plan_of(setup.model, nn::all(c.save), c.resident, c.paged);
    const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
    const auto device = device_under_test(f32_cpu());
    comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
    Trainer trainer(rank, setup, plan);
    trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
    rank.ledger.record(false);
    const auto batches = three_batches(setup.model, 37, 1);
    const auto steps = [&](int n) {
      for (int i = 0; i < n; ++i) trainer.step(batches, 1e-3);
      trainer.evaluate(batches);
      trainer.save([](const store::ParamSpec&, Tensor) {});
    };
    steps(5);  // libraries keep what they made for the shapes they saw
    const int64_t before = heap_bytes();
    steps(100);
    EXPECT_LE(heap_bytes(), before + 4096);
  }
}

}  // namespace
}  // namespace thimble::train
