// Loss, logits and every gradient of the odd 2-layer Llamas beside transformers' and PEFT's (tests/golden/README.md).
#include "nn/golden_run.h"

namespace thimble::nn {
namespace {

void full_gradients(const char* name) {
  const fs::path folder = golden / name;
  GoldenRun run(folder, {.weights = all_weights()}, folder / "reference.safetensors");
  const store::SafetensorsFile gradients(folder / "gradients.safetensors");
  for (const auto& t : run.model->trained()) EXPECT_LE(relative(t.gradient, gradients.tensor("grad." + t.spec->name)), 1e-4) << t.spec->name;
}

void lora_gradients(quant::FormatId format, const char* reference) {
  const auto adapter = golden / "lora_odd_untied";
  const auto method = lora_method(store::read_adapter_config(adapter), format);
  GoldenRun run(golden / "llama_odd_untied", method, adapter / reference, [&](Model& model) {
    const store::AdapterFile file(adapter, model.adapters());
    for (const auto& t : model.trained()) file.read(*t.spec, t.value);
  });
  const store::SafetensorsFile gradients(adapter / reference);
  for (const auto& t : run.model->trained()) EXPECT_LE(relative(t.gradient, gradients.tensor("grad." + store::peft_name(*t.spec))), 1e-4) << store::peft_name(*t.spec);
}

TEST(Golden, FullGradientsTied) { full_gradients("llama_odd_tied"); }
TEST(Golden, FullGradientsUntied) { full_gradients("llama_odd_untied"); }
TEST(Golden, LoraGradientsOnF32) { lora_gradients(quant::FormatId::dense, "reference_f32.safetensors"); }
TEST(Golden, LoraGradientsOnNf4) { lora_gradients(quant::FormatId::nf4, "reference_nf4.safetensors"); }

}  // namespace
}  // namespace thimble::nn
