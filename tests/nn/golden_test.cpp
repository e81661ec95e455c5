// Loss, logits and every gradient of the odd 2-layer Llamas beside transformers' and PEFT's (tests/golden/README.md).
#include "nn/fixture.h"

namespace thimble::nn {
namespace {

struct Run {
  Machine machine;
  std::unique_ptr<Model> model;
  std::unique_ptr<Decoder> decoder;
  float loss = 0;

  Run(const fs::path& folder, const Method& method, const fs::path& reference, const std::function<void(Model&)>& adapters = nullptr) {
    auto& rank = machine.rank;
    const ModelSpec spec = models::read_model(folder);
    const int layers = int(spec.layers.size());
    model = std::make_unique<Model>(rank, spec, method, store::Residency{layers, layers});
    decoder = std::make_unique<Decoder>(rank, *model, Execution{.head_chunk = 7}, 48);
    model->load(store::open_weights(folder).get());
    decoder->load();
    if (adapters) adapters(*model);
    model->take_gradients(rank);
    std::fill_n(model->all_gradients().get<float>(), model->all_gradients().count(), 0.0f);
    const store::SafetensorsFile golden_file(reference);
    const Tensor targets = golden_file.tensor("targets");
    const Tokens tokens = machine.tokens(golden_file.tensor("ids"), targets);
    const Tensor sum = machine.vector({0});
    decoder->forward_backward({&tokens, 1}, {sum, Tensor{}, machine.vector({1.0f / float(target_count(targets))})});
    loss = *sum.get<float>();
    EXPECT_NEAR(loss, *golden_file.tensor("loss").get<float>(), 1e-5 * loss);
  }
};

Method lora_method(const store::AdapterConfig& a, quant::FormatId format) {
  Method m{.lora = {.rank = a.rank, .scale = float(a.alpha / double(a.rank))}, .format = format};
  for (int p = 0; p < layer_param_count; ++p)
    for (const auto& target : a.targets) m.lora.targets[size_t(p)] |= std::string_view(leaf_names[p]).ends_with(target);
  return m;
}

void full_gradients(const char* name) {
  const fs::path folder = golden / name;
  Run run(folder, {.trains_weights = true}, folder / "reference.safetensors");
  const store::SafetensorsFile gradients(folder / "gradients.safetensors");
  for (const auto& t : run.model->trained()) EXPECT_LE(relative(t.gradient, gradients.tensor("grad." + t.spec->name)), 1e-4) << t.spec->name;
}

void lora_gradients(quant::FormatId format, const char* reference) {
  const auto adapter = golden / "lora_odd_untied";
  const auto method = lora_method(store::read_adapter_config(adapter), format);
  Run run(golden / "llama_odd_untied", method, adapter / reference, [&](Model& model) {
    const store::AdapterFile file(adapter, model.adapters()->specs());
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
