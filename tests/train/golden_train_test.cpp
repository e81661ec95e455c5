// Thirty optimizer steps beside PEFT and torch.optim.AdamW from the same start on the same batches (tests/golden/README.md).
#include "golden_folder.h"
#include "store/adapter_files.h"
#include "store/safetensors.h"
#include "train/fixture.h"
#include "train/golden_batches.h"
#include "train/schedule.h"

namespace thimble::train {
namespace {

const fs::path golden = golden_folder();

void thirty_steps(const char* folder, const nn::Method& method, const std::string& prefix, const fs::path& adapter, const char* results = "train30.safetensors",
                  double loss_within = 1e-4, double norm_within = 1e-3) {
  const store::SafetensorsFile reference(golden / "train30.safetensors"), expected(golden / results);
  const train::Setup setup{.model = models::read_model(golden / folder), .method = method, .weight_decay = 0.01f, .decay_norms = true, .tokens_per_row = 24};
  auto plan = plan_of(setup.model, nn::all(nn::Save::recompute), int(setup.model.layers.size()), false);
  plan.micro_batch = 2;
  const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
  const auto device = device_under_test(f32_cpu());
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
  Trainer trainer(rank, setup, plan);
  trainer.load(store::open_weights(golden / folder).get());
  if (!adapter.empty()) {
    const store::AdapterFile file(adapter, trainer.model().adapters());
    trainer.load_adapters([&](const store::ParamSpec& p, Tensor to) { file.read(p, to); });
  }
  const Tensor loss = expected.tensor(prefix + ".loss"), norm = expected.tensor(prefix + ".norm"), lr = reference.tensor("lr");
  const Schedule schedule{.kind = ScheduleKind::linear, .peak = 1e-3, .warmup = 3, .total = 30};
  for (int64_t step = 0; step < 30; ++step) {
    EXPECT_NEAR(learning_rate(schedule, step), lr.get<float>()[step], 1e-9);
    const auto r = trainer.step(std::vector<data::MicroBatch>{batch_of(reference.tensor("ids"), reference.tensor("targets"), step)}, learning_rate(schedule, step));
    EXPECT_NEAR(r.loss, loss.get<float>()[step], loss_within) << prefix << " step " << step;
    EXPECT_NEAR(r.grad_norm, norm.get<float>()[step], norm_within * norm.get<float>()[step]) << prefix << " step " << step;
  }
}

nn::Method adapters(quant::FormatId format) {
  const auto config = store::read_adapter_config(golden / "lora_odd_untied");
  return {.lora = nn::lora_on(config.rank, float(config.alpha / double(config.rank))), .format = format};
}

TEST(ThirtySteps, LoraAsPeft) { thirty_steps("llama_odd_untied", adapters(quant::FormatId::dense), "lora_f32", golden / "lora_odd_untied"); }
TEST(ThirtySteps, QloraAsPeftOnBitsandbytesWeights) { thirty_steps("llama_odd_untied", adapters(quant::FormatId::nf4), "lora_nf4", golden / "lora_odd_untied"); }
// A sum's last bit may round an activation to the next of 127 codes: the losses of models this small then differ by a thousandth.
TEST(ThirtySteps, LoraAsPeftOnAnEightBitBase) {
  thirty_steps("llama_odd_untied", adapters(quant::FormatId::int8), "lora_int8", golden / "lora_odd_untied", "train30_int8.safetensors", 1e-2, 1e-2);
}
TEST(ThirtySteps, FullAsTorch) { thirty_steps("llama_odd_tied", full(), "full_tied", {}); }

}  // namespace
}  // namespace thimble::train
