// One pass over a golden's batch: its loss is checked at once, its gradients wait in the model.
#pragma once
#include "nn/fixture.h"

namespace thimble::nn {

struct GoldenRun {
  Machine machine;
  std::unique_ptr<Model> model;
  std::unique_ptr<Decoder> decoder;
  float loss = 0;

  GoldenRun(const fs::path& folder, const Method& method, const fs::path& reference, const std::function<void(Model&)>& adapters = nullptr, const char* loss_key = "loss") {
    auto& rank = machine.rank;
    const ModelSpec spec = models::read_model(folder);
    const int layers = int(spec.layers.size());
    model = std::make_unique<Model>(rank, spec, method, store::Residency{layers, layers});
    decoder = std::make_unique<Decoder>(rank, *model, Execution{.head_chunk = 7}, 48);
    model->load(store::open_weights(folder).get());
    decoder->load();
    if (adapters) adapters(*model);
    model->take_gradients(rank);
    std::fill_n(model->gradients().resident().get<float>(), model->gradients().resident().count(), 0.0f);
    const store::SafetensorsFile golden_file(reference);
    const Tensor targets = golden_file.tensor("targets");
    const Tokens tokens = machine.tokens(golden_file.tensor("ids"), targets);
    const Tensor sum = machine.vector({0});
    decoder->forward_backward({&tokens, 1}, {sum, Tensor{}, machine.vector({1.0f / float(target_count(targets))})});
    loss = *sum.get<float>();
    EXPECT_NEAR(loss, *golden_file.tensor(loss_key).get<float>(), 1e-5 * loss);
  }
};

inline Method lora_method(const store::AdapterConfig& a, quant::FormatId format) {
  const auto on = [&](int p) { return std::any_of(a.targets.begin(), a.targets.end(), [&](const auto& t) { return std::string_view(leaf_names[p]).ends_with(t); }); };
  return {.lora = lora_on(a.rank, float(a.alpha / double(a.rank)), on), .format = format};
}

}  // namespace thimble::nn
