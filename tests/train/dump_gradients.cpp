// thimble-dump: logits, loss and every gradient of a model folder, for tests/golden/agreement.py. Logits come from the engine that
// generates, loss and gradients from a trainer's step at rate 0, so that what is compared is what users run.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "device/cuda.h"
#include "models/registry.h"
#include "serve/engine.h"
#include "store/weight_source.h"
#include "train/trainer.h"
#include "train/tuning.h"

namespace thimble {
namespace {

struct Options {
  std::string model, tokens, out, adapter, format = "dense", device = "cpu", compute = "f32";
  bool full = false;
};

DeviceSpec spec_of(const Options& o) {
  DeviceSpec spec = this_cpu();
#ifdef THIMBLE_CUDA
  if (o.device == "cuda") spec = this_cuda();
#else
  if (o.device == "cuda") throw Error(Fault::usage, {.what = "this program was built without CUDA"});
#endif
  spec.compute = o.compute == "bf16" ? DType::bf16 : DType::f32;
  return spec;
}

nn::Method method_of(const Options& o, const nn::ModelSpec& model) {
  const auto format = quant::format(o.format).id;
  if (!o.adapter.empty()) return train::tuning_of(model, store::read_adapter_config(o.adapter), format, false).method;
  return {.weights = o.full ? nn::all_weights() : nn::TrainedWeights{}, .format = format};
}

// Rows of ids and targets (B, T) i32, cut to lengths (B): documents one after the other.
data::MicroBatch read_batch(const fs::path& path) {
  const store::SafetensorsFile file(path);
  const Tensor ids = file.tensor("ids"), targets = file.tensor("targets"), lengths = file.tensor("lengths");
  data::MicroBatch batch;
  for (int64_t row = 0; row < ids.shape[0]; ++row) {
    const auto start = int32_t(batch.ids.size());
    for (int32_t t = 0; t < lengths.get<int32_t>()[row]; ++t) {
      batch.ids.push_back(ids.rows(row, 1).get<int32_t>()[t]);
      batch.targets.push_back(std::max(-1, targets.rows(row, 1).get<int32_t>()[t]));
      batch.positions.push_back(t);
      batch.start.push_back(start);
    }
  }
  return batch;
}

// (N, V) of all tokens, document by document.
std::vector<float> logits_of(const Options& o, const DeviceSpec& spec, const nn::ModelSpec& model, const nn::Method& method,
                             const data::MicroBatch& batch) {
  const auto tokens = int64_t(batch.ids.size());
  const serve::EngineShape shape{.model = model, .method = method, .context = tokens, .prefill_chunk = tokens};
  const auto outcome = serve::Engine::rehearse(spec, shape);
  const auto device = open_device(spec);
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
  serve::Engine engine(rank, shape);
  engine.load(store::open_weights(o.model).get());
  if (!o.adapter.empty()) {
    const store::AdapterFile file(o.adapter, engine.model().adapters());
    engine.load_adapters([&](const store::ParamSpec& p, Tensor to) { file.read(p, to); });
  }
  std::vector<float> all;
  for (size_t begin = 0, end = 0; begin < batch.ids.size(); begin = end) {
    for (end = begin + 1; end < batch.ids.size() && batch.positions[end] != 0;) ++end;
    const Tensor logits = engine.logits({batch.ids.begin() + std::ptrdiff_t(begin), batch.ids.begin() + std::ptrdiff_t(end)});
    all.insert(all.end(), logits.get<float>(), logits.get<float>() + logits.count());
  }
  return all;
}

int64_t largest_gradient(const nn::ModelSpec& model, const nn::Method& method) {
  int64_t most = 0;
  const auto see = [&](const store::ParamSpec& p) { most = std::max(most, p.shape.count() * int64_t(sizeof(float))); };
  if (method.trains_weights()) nn::parameters(model, quant::FormatId::dense, nn::all_weights()).for_each(see);
  for (const auto& p : nn::adapter_parameters(model, method.lora)) see(p);
  return most;
}

int dump(const Options& o) {
  const DeviceSpec spec = spec_of(o);
  const auto model = models::read_model(o.model);
  const auto batch = read_batch(o.tokens);
  const auto method = method_of(o, model);
  const auto tokens = int64_t(batch.ids.size());
  auto inference = method;
  inference.weights = {};
  const auto logits = logits_of(o, spec, model, inference, batch);

  const train::Setup setup{.model = model, .method = method, .max_grad_norm = 0, .tokens_per_row = tokens};
  const plan::Plan plan{.save = std::vector<nn::LayerSave>(model.layers.size(), nn::all(nn::Save::keep)),
                        .resident_layers = int(model.layers.size())};
  const auto outcome = train::Trainer::rehearse(spec, setup, plan);
  const auto device = open_device(spec);
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1] + aligned(largest_gradient(model, method)), outcome.peak[2]});
  train::Trainer trainer(rank, setup, plan);
  trainer.load(store::open_weights(o.model).get());
  if (!o.adapter.empty()) {
    const store::AdapterFile file(o.adapter, trainer.model().adapters());
    trainer.load_adapters([&](const store::ParamSpec& p, Tensor to) { file.read(p, to); });
  }
  float loss = float(trainer.step({&batch, 1}, 0).loss);

  std::vector<store::SafetensorsWriter::Declared> declared{{"logits", DType::f32, {tokens, model.vocab}}, {"loss", DType::f32, {1}}};
  for (const auto& t : trainer.model().trained())
    declared.push_back({"grad." + (o.full ? t.spec->name : store::peft_name(*t.spec)), t.gradient.dtype, t.gradient.shape});
  store::SafetensorsWriter writer(o.out, std::move(declared));
  writer.write({const_cast<float*>(logits.data()), DType::f32, {tokens, model.vocab}});
  writer.write({&loss, DType::f32, {1}});
  for (const auto& t : trainer.model().trained()) {
    const Scope scope(rank.pinned);
    const Tensor host = rank.pinned.take(Use::gradients, "gradient", t.gradient.dtype, t.gradient.shape);
    rank.download("gradient", host, t.gradient);
    writer.write(host);
  }
  writer.commit();
  std::printf("%s, %s: loss %.6f\n", spec.name.c_str(), o.compute.c_str(), double(loss));
  return 0;
}

}  // namespace
}  // namespace thimble

int main(int argc, char** argv) {
  thimble::Options o;
  CLI::App app{"logits, loss and gradients of a model folder, as safetensors"};
  app.add_option("model", o.model)->required();
  app.add_option("tokens", o.tokens, "safetensors: ids and targets (B, T), lengths (B), i32; a target below 0 is left out")->required();
  app.add_option("out", o.out, "safetensors: logits (N, V) of the documents' tokens, loss, grad.NAME")->required();
  app.add_option("--adapter", o.adapter, "PEFT folder, whose gradients are wanted");
  app.add_flag("--full", o.full, "gradients of all weights");
  app.add_option("--format", o.format, "of the frozen base: dense, nf4, nf4_dq");
  app.add_option("--device", o.device)->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--compute", o.compute)->check(CLI::IsMember({"f32", "bf16"}));
  CLI11_PARSE(app, argc, argv);
  try {
    return thimble::dump(o);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
