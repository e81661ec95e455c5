// Of each method: what a run writes is read again with the same loss, and stays in the build folder with its logits, where
// tests/golden/check_adapter.py shows that PEFT gives them too (its output: tests/golden/adapters_check.txt). And PEFT's files read here.
#include <numeric>
#include <optional>

#include "golden_folder.h"
#include "serve/engine.h"
#include "store/safetensors.h"
#include "train/fixture.h"
#include "train/golden_batches.h"
#include "train/trained_model.h"
#include "train/tuning.h"

namespace thimble::train {
namespace {

const fs::path golden = golden_folder();

// An engine on a 16-bit model, with an adapter folder or without, as chat and eval have it.
struct Loaded {
  std::unique_ptr<Device> device = device_under_test(f32_cpu());
  std::unique_ptr<comm::Rank> rank;
  std::unique_ptr<serve::Engine> engine;
  explicit Loaded(const fs::path& model, const fs::path& folder = {}) {
    Tuning tuning{.model = models::read_model(model)};
    if (!folder.empty()) tuning = tuning_of(tuning.model, store::read_adapter_config(folder), quant::FormatId::dense, true);
    const serve::EngineShape shape{.model = tuning.model, .method = tuning.method, .context = 48, .prefill_chunk = 48};
    const auto outcome = serve::Engine::rehearse(f32_cpu(), shape);
    rank = std::make_unique<comm::Rank>(*device, comm::Capacity{outcome.peak[0], outcome.peak[1], outcome.peak[2]});
    engine = std::make_unique<serve::Engine>(*rank, shape);
    const auto& table = engine->model().weights().table();
    std::optional<store::AdapterFile> file;
    if (!folder.empty()) file.emplace(folder, store::tensors_of_adapter(engine->model().adapters(), table, tuning.adapter.modules_to_save));
    const auto weights = store::open_weights(model);
    const auto source = store::adapted_weights(*weights, file ? &*file : nullptr);
    source->check_table(table);
    engine->load(source.get());
    if (file) engine->load_adapters([&](const store::ParamSpec& p, Tensor to) { file->read(p, to); });
  }
};

void written_and_read(const std::string& name, TrainOptions o, const fs::path& base = golden / "llama_odd_tied") {
  SCOPED_TRACE(name);
  const fs::path out = fs::path(THIMBLE_BINARY_DIR) / "adapters_of_ours" / name;
  fs::remove_all(out);
  fs::create_directories(out);
  o.model_name_or_path = base.string();
  o.lora_rank = 3;
  const auto tuning = tuning_of(models::read_model(base), o);
  const train::Setup setup{.model = tuning.model, .method = tuning.method, .adapter = tuning.adapter, .tokens_per_row = 24};
  auto plan = plan_of(setup.model, nn::all(nn::Save::keep), int(setup.model.layers.size()), false);
  plan.micro_batch = 2;
  const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
  const auto device = device_under_test(f32_cpu());
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
  Trainer trainer(rank, setup, plan);
  const auto weights = store::open_weights(base);
  trainer.load(store::adapted_weights(*weights, nullptr).get());
  const store::SafetensorsFile batches(golden / "train30.safetensors");
  for (int64_t step = 0; step < 5; ++step)
    trainer.step(std::vector<data::MicroBatch>{batch_of(batches.tensor("ids"), batches.tensor("targets"), step, setup.model.vocab)}, 3e-2);
  write_trained(out, o, setup, trainer);

  const auto batch = batch_of(batches.tensor("ids"), batches.tensor("targets"), 7, setup.model.vocab);
  const auto trained = trainer.evaluate(std::vector<data::MicroBatch>{batch});
  Loaded read(base, out);
  double loss = 0;
  for (size_t row = 0; row < 2; ++row) loss += read.engine->score(std::span(batch.ids).subspan(row * 24, 24), std::span(batch.targets).subspan(row * 24, 24)).loss;
  EXPECT_NEAR(loss / double(trained.targets), trained.loss, 1e-5 * trained.loss);

  const std::vector<int32_t> ids(batch.ids.begin(), batch.ids.begin() + 24);
  const Tensor logits = read.engine->logits(ids);
  store::SafetensorsWriter writer(out / "logits.safetensors", {{"ids", DType::i32, {1, 24}}, {"logits", DType::f32, {1, 24, logits.shape[1]}}});
  writer.write(Tensor{const_cast<int32_t*>(ids.data()), DType::i32, {24}});
  writer.write(logits);
  writer.commit();
}

TEST(MethodsRoundTrip, WrittenAndRead) {
  written_and_read("lora", {});
  written_and_read("rslora", {.use_rslora = true});
  written_and_read("dora", {.use_dora = true});
  written_and_read("dropout", {.lora_dropout = 0.2});
  written_and_read("dora_dropout", {.lora_dropout = 0.2, .use_dora = true});
  written_and_read("some", {.lora_target = {"q_proj", R"(.*\.1\.mlp\.up_proj)"}});
  written_and_read("modules", {.lora_target = {"v_proj"}, .additional_target = {"embed_tokens", "lm_head"}});
}

TEST(MethodsRoundTrip, WrittenAndReadOfModulesOfSeveralMatrices) {
  const fs::path phi = golden / "families" / "phi3";
  written_and_read("fused", {}, phi);
  written_and_read("fused_dora_dropout", {.lora_dropout = 0.2, .use_dora = true}, phi);
  written_and_read("fused_some", {.lora_target = {"qkv_proj", R"(.*\.1\.mlp\.down_proj)"}}, phi);
  TrainOptions parts;
  parts.lora_target = {"q_proj"};
  try {
    tuning_of(models::read_model(phi), parts);
    FAIL() << "q_proj is no module of Phi-3";
  } catch (const Error& e) {
    EXPECT_NE(e.problem().expected.find("qkv_proj"), std::string::npos);
  }
}

void logits_are_pefts(const fs::path& base, const fs::path& adapter) {
  SCOPED_TRACE(adapter);
  const store::SafetensorsFile reference(adapter / "reference.safetensors");
  Loaded read(base, adapter);
  const Tensor ids = reference.tensor("ids"), expected = reference.tensor("logits");
  const Tensor logits = read.engine->logits({ids.get<int32_t>(), ids.get<int32_t>() + ids.count()});
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < expected.count(); ++i) {
    const float ours = logits.get<float>()[logits.count() - expected.count() + i];  // the last positions
    worst = std::max(worst, std::fabs(double(ours) - double(expected.get<float>()[i])));
    largest = std::max(largest, std::fabs(double(expected.get<float>()[i])));
  }
  EXPECT_LE(worst, 1e-5 * largest);
}
TEST(MethodsRoundTrip, PeftsDoraWithPatternsAndAHead) { logits_are_pefts(golden / "llama_odd_untied", golden / "peft_dora"); }
TEST(MethodsRoundTrip, PeftsOfModulesOfSeveralMatrices) {
  for (const char* name : {"peft_fused", "peft_fused_dora"}) logits_are_pefts(golden / "families" / "phi3", golden / name);
}

// What was frozen stays as it was; of a packed base, as the numbers that its codes stand for.
void thawed_written_and_read(const fs::path& from, double tolerance, bool pure_bf16 = false) {
  SCOPED_TRACE(from);
  const fs::path out = fs::path(testing::TempDir()) / "a_frozen_model";
  fs::remove_all(out);
  fs::create_directories(out);
  TrainOptions o;
  o.model_name_or_path = from.string();
  o.finetuning_type = Finetuning::freeze;
  o.freeze_trainable_layers = 1;
  o.pure_bf16 = pure_bf16;
  const auto tuning = tuning_of(models::read_model(from), o);
  const train::Setup setup{.model = tuning.model, .method = tuning.method, .tokens_per_row = 24};
  const auto plan = plan_of(setup.model, nn::all(nn::Save::keep), 1, false);  // the frozen layer streams
  const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
  const auto device = device_under_test(f32_cpu());
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
  Trainer trainer(rank, setup, plan);
  const auto weights = store::open_weights(from);
  trainer.load(weights.get());
  trainer.step(std::vector<data::MicroBatch>{random_batch(setup.model, 24, 0)}, 1e-2);
  write_trained(out, o, setup, trainer);

  const auto after = store::open_weights(out);
  EXPECT_EQ(models::read_model(out).stored.format, quant::FormatId::dense);
  nn::parameters(setup.model, quant::FormatId::dense).for_each([&](const store::ParamSpec& p) {
    std::vector<float> a(size_t(p.shape.count())), b(a.size());
    weights->read(p.name, 0, {a.data(), DType::f32, p.shape});
    after->read(p.name, 0, {b.data(), DType::f32, p.shape});
    EXPECT_EQ(a == b, p.layer != 1) << p.name;
  });
  auto batch = random_batch(setup.model, 24, 3);
  batch.start.assign(24, 0);
  std::iota(batch.positions.begin(), batch.positions.end(), 0);
  const double loss = trainer.evaluate(std::vector<data::MicroBatch>{batch}).loss;
  const auto read = Loaded(out).engine->score(batch.ids, batch.targets);
  EXPECT_NEAR(read.loss / double(read.targets), loss, tolerance * loss);
}

TEST(MethodsRoundTrip, AFrozenModelIsWrittenWhole) {
  for (const bool bf16 : {false, true}) thawed_written_and_read(golden / "llama_odd_tied", 1e-5, bf16);
  for (const char* packed : {"nf4", "nf4_dq"}) thawed_written_and_read(golden / "quantised" / packed, 1e-5);
  thawed_written_and_read(golden / "quantised" / "int8", 2e-2);  // training multiplies with rounded activations, a 16-bit folder does not
}

}  // namespace
}  // namespace thimble::train
