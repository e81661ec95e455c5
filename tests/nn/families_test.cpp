// Each family beside transformers and PEFT: loss, all gradients of full tuning and of an adapter (tests/golden/families.py).
#include "nn/golden_run.h"

namespace thimble::nn {
namespace {

class Families : public testing::TestWithParam<std::string> {
 protected:
  const fs::path folder = golden / "families" / GetParam(), reference = folder / "reference.safetensors";
  const store::SafetensorsFile file{reference};
};

TEST_P(Families, FullGradients) {
  GoldenRun run(folder, {.weights = all_weights()}, reference);
  const bool fused = run.model->spec().fused_files;
  for (const auto& t : run.model->trained()) {
    Tensor want = file.tensor("grad." + (fused ? t.spec->file_name() : t.spec->name));
    if (fused && !t.spec->shared.empty()) want = want.rows(t.spec->shared_row, t.spec->shape[0]);
    EXPECT_LE(relative(t.gradient, want), 1e-4) << t.spec->name;
  }
}

TEST_P(Families, AdapterGradients) {
  const bool fused = models::read_model(folder).fused_files;
  const Method method{.lora = lora_on(4, 2, is_matrix, fused)};
  GoldenRun run(folder, method, reference, [&](Model& model) {
    for (const auto& t : model.trained()) {
      const Tensor value = file.tensor("lora." + store::peft_name(*t.spec));
      std::copy_n(value.get<float>(), value.count(), t.value.get<float>());
    }
  }, "lora.loss");
  for (const auto& t : run.model->trained()) EXPECT_LE(relative(t.gradient, file.tensor("lora.grad." + store::peft_name(*t.spec))), 1e-4) << store::peft_name(*t.spec);
}

INSTANTIATE_TEST_SUITE_P(All, Families, testing::ValuesIn(golden_families()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace thimble::nn
