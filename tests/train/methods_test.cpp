// Thirty steps of each tuning method beside PEFT and torch, and the gradients of the first one (tests/golden/methods.py).
#include "golden_folder.h"
#include "store/safetensors.h"
#include "train/fixture.h"
#include "train/golden_batches.h"
#include "train/schedule.h"
#include "train/tuning.h"

namespace thimble::train {
namespace {

const fs::path golden = golden_folder();

void like_the_golden(const std::string& name, const char* base, TrainOptions options, bool random_start = true, double lora_b_rate = 1) {
  const store::SafetensorsFile reference(golden / (name.starts_with("fused") ? "methods_fused.safetensors" : "methods.safetensors")), batches(golden / "train30.safetensors");
  const store::SafetensorsFile start(golden / "lora_odd_untied" / "adapter_model.safetensors");
  const auto tuning = tuning_of(models::read_model(golden / base), options);
  const train::Setup setup{.model = tuning.model, .method = tuning.method, .weight_decay = 0.01f, .decay_norms = true, .lora_b_rate = float(lora_b_rate), .tokens_per_row = 24, .seed = 42};
  auto plan = plan_of(setup.model, nn::all(nn::Save::recompute), int(setup.model.layers.size()), false);
  plan.micro_batch = 2;
  const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
  const auto device = device_under_test(f32_cpu());
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
  Trainer trainer(rank, setup, plan);
  const auto weights = store::open_weights(golden / base);
  trainer.load(store::adapted_weights(*weights, nullptr).get());
  if (setup.method.lora.any())
    trainer.load_adapters([&](const store::ParamSpec& p, Tensor to) {
      const std::string key = store::peft_name(p), own = name + ".start." + key;
      const Tensor from = reference.find(own) ? reference.tensor(own) : start.tensor(key);
      ASSERT_TRUE(random_start || reference.find(own)) << key;
      ASSERT_EQ(from.count(), to.count()) << key;
      std::memcpy(to.data, from.data, size_t(to.bytes()));
    });
  const Schedule schedule{.kind = ScheduleKind::linear, .peak = 1e-3, .warmup = 3, .total = 30};
  const Tensor loss = reference.tensor(name + ".loss"), norm = reference.tensor(name + ".norm");
  for (int64_t step = 0; step < 30; ++step) {
    const auto r = trainer.step(std::vector<data::MicroBatch>{batch_of(batches.tensor("ids"), batches.tensor("targets"), step, setup.model.vocab)}, learning_rate(schedule, step));
    EXPECT_NEAR(r.loss, loss.get<float>()[step], 1e-4) << name << " step " << step;
    EXPECT_NEAR(r.grad_norm, norm.get<float>()[step], 1e-3 * norm.get<float>()[step]) << name << " step " << step;
    if (step > 0) continue;
    int compared = 0;
    for (const auto& t : trainer.model().trained()) {
      const std::string key = name + ".grad." + (setup.method.lora.any() ? store::peft_name(*t.spec) : t.spec->name);
      if (!reference.find(key)) continue;
      const Tensor expected = reference.tensor(key);
      double worst = 0, largest = 1e-30;
      for (int64_t i = 0; i < expected.count(); ++i) {
        worst = std::max(worst, std::fabs(double(t.gradient.get<float>()[i]) - double(expected.get<float>()[i])));
        largest = std::max(largest, std::fabs(double(expected.get<float>()[i])));
      }
      EXPECT_LE(worst, 1e-4 * largest) << key;
      ++compared;
    }
    EXPECT_TRUE(compared > 0 || name == "loraplus");
  }
}

TrainOptions rank4() {
  TrainOptions o;
  o.lora_rank = 4;
  o.lora_alpha = 8;
  return o;
}

TEST(Methods, DoraAndRsloraAsPeft) {
  auto o = rank4();
  o.use_dora = o.use_rslora = true;
  like_the_golden("dora", "llama_odd_untied", o);
}

TEST(Methods, DropoutAsPeftWithTheSameMasks) {
  auto o = rank4();
  o.lora_dropout = 0.3;
  like_the_golden("dropout", "llama_odd_untied", o);
}

TEST(Methods, DoraWithDropoutAsPeft) {
  auto o = rank4();
  o.use_dora = o.use_rslora = true;
  o.lora_dropout = 0.3;
  like_the_golden("dora_dropout", "llama_odd_untied", o);
}

// One adapter of q, k and v, and one of gate and up: one A, one mask.
TEST(Methods, ModulesOfSeveralMatricesAsPeft) {
  auto o = rank4();
  o.lora_dropout = 0.3;
  like_the_golden("fused", "families/phi3", o, false);
  o.use_dora = true;
  like_the_golden("fused_dora", "families/phi3", o, false);
}

TEST(Methods, LoraPlus) { like_the_golden("loraplus", "llama_odd_untied", rank4(), true, 16); }

TEST(Methods, Neftune) {
  auto o = rank4();
  o.neftune_noise_alpha = 5;
  like_the_golden("neftune", "llama_odd_untied", o);
}

TEST(Methods, ModulesTrainedWholeBesideAdaptersOfSomeLayersWithPatterns) {
  store::AdapterConfig a{.rank = 4, .alpha = 8, .targets = {"layers.0.self_attn.q_proj", "down_proj"}, .rank_pattern = {{"down_proj", 3}},
                         .alpha_pattern = {{"layers\\.1\\.mlp\\.down_proj", 5}}, .modules_to_save = {"embed_tokens", "lm_head"}};
  const auto folder = fs::path(testing::TempDir()) / "an_adapter_with_patterns";
  store::write_adapter(folder, a, {}, [](const auto&) {});
  TrainOptions o;
  o.adapter_name_or_path = folder.string();
  like_the_golden("saved", "llama_odd_tied", o, false);
}

TEST(Methods, FreezeTheLastLayersPart) {
  TrainOptions o;
  o.finetuning_type = Finetuning::freeze;
  o.freeze_trainable_layers = 1;
  o.freeze_trainable_modules = {"mlp"};
  o.freeze_extra_modules = {"norm", "lm_head"};
  like_the_golden("freeze", "llama_odd_untied", o);
}

TEST(Methods, FreezeTheLastLayerWithItsNorms) {
  TrainOptions o;
  o.finetuning_type = Finetuning::freeze;
  o.freeze_trainable_layers = 1;
  like_the_golden("freeze_last", "llama_odd_untied", o);
}

TEST(Methods, FreezeTheFirstLayerAndATiedTable) {
  TrainOptions o;
  o.finetuning_type = Finetuning::freeze;
  o.freeze_trainable_layers = -1;
  o.freeze_extra_modules = {"embed_tokens"};
  like_the_golden("freeze_first", "llama_odd_tied", o);
}

// The names that targets take: ends of names, whole names, expressions.
TEST(Tuning, TargetsAreNamesOrExpressions) {
  const auto model = models::read_model(golden / "llama_odd_untied");
  const auto count = [&](std::vector<std::string> targets) {
    TrainOptions o;
    o.lora_target = std::move(targets);
    const auto t = tuning_of(model, o);
    std::vector<std::string> names = t.adapter.targets;
    int on = 0;
    for (int l = 0; l < 2; ++l)
      for (int p = 0; p < nn::layer_param_count; ++p) on += t.method.lora.layers[l].on(p);
    return std::pair(on, names);
  };
  EXPECT_EQ(count({"all"}).first, 14);
  EXPECT_EQ(count({"q_proj", "down_proj"}), std::pair(4, std::vector<std::string>({"q_proj", "down_proj"})));
  EXPECT_EQ(count({"layers.1.mlp.up_proj"}), std::pair(1, std::vector<std::string>({"model.layers.1.mlp.up_proj"})));
  EXPECT_EQ(count({R"(.*\.0\.self_attn\.[qv]_proj)"}), std::pair(2, std::vector<std::string>({"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"})));
  EXPECT_EQ(count({R"(.*mlp.*)"}), std::pair(6, std::vector<std::string>({"gate_proj", "up_proj", "down_proj"})));
  for (const char* bad : {"model.layers.7.mlp.up_proj", "proj", "(", R"(q_proj|v_proj)"}) EXPECT_THROW(count({bad}), Error) << bad;
}

TEST(Tuning, ScalesAreAlphaOverTheRankOrItsRoot) {
  const auto model = models::read_model(golden / "llama_odd_untied");
  TrainOptions o;
  o.lora_rank = 16;
  EXPECT_EQ(tuning_of(model, o).method.lora.layers[1].of[nn::v_proj].scale, 2);
  o.use_rslora = true;
  EXPECT_EQ(tuning_of(model, o).method.lora.layers[1].of[nn::v_proj].scale, 8);
}

}  // namespace
}  // namespace thimble::train
