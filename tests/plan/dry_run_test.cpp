// How long a dry run takes, from the text of a config.json and no weights: printed, not asserted, since machines differ and share.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "models/registry.h"
#include "train/trainer.h"

namespace thimble::plan {
namespace {

// Llama-3.3-70B-Instruct's, as published.
constexpr const char* config_70b = R"({
  "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000,
  "eos_token_id": [128001, 128008, 128009], "head_dim": 128, "hidden_act": "silu", "hidden_size": 8192, "initializer_range": 0.02,
  "intermediate_size": 28672, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 64,
  "num_hidden_layers": 80, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
  "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
  "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 128256})";

template <class F>
double milliseconds(F&& f) {
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    f();
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

TEST(DryRun, MillisecondsOfA70BShape) {
  train::Setup setup{.method = {.lora = nn::lora_on(16, 2), .format = quant::FormatId::nf4_dq}, .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 4096};
  const double config = milliseconds([&] { setup.model = models::parse_config(parse_json(config_70b, "config.json"), "config.json"); });
  ASSERT_EQ(setup.model.layers.size(), 80u);
  DeviceSpec spec;
  spec.compute = DType::bf16;
  const auto zeros = std::vector<int32_t>(4096);
  const data::MicroBatch batch{zeros, zeros, zeros, zeros};
  const auto device = phantom_device(spec);
  for (const auto& [name, level, resident] : {std::tuple{"keep all, resident", 0, 80}, {"recompute block, half streamed", 3, 40}, {"offload input, all streamed", 4, 0}}) {
    const Plan plan{.save = std::vector<nn::LayerSave>(80, ladder()[size_t(level)].save), .resident_layers = resident, .head_chunk = 1024};
    size_t entries = 0;
    // From nothing: tables, weights, adapters, optimizer, then one step.
    const double set_up_and_step = milliseconds([&] {
      comm::Rank rank(*device, comm::boundless);
      train::Trainer trainer(rank, setup, plan);
      trainer.step({&batch, 1}, 1e-4);
      entries = rank.ledger.entries().size();
    });
    comm::Rank rank(*device, comm::boundless);
    train::Trainer trainer(rank, setup, plan);
    const double step = milliseconds([&] {
      rank.ledger.clear_entries();
      trainer.step({&batch, 1}, 1e-4);
    });
    EXPECT_GT(rank.ledger.entries().size(), 5000u);
    const double whole = milliseconds([&] { train::Trainer::rehearse(spec, setup, plan); });
    std::printf("70B, NF4+DQ, LoRA r16, %s: config %.2f ms, a step %.2f ms, set-up and a step %.2f ms (%zu entries), a whole rehearsal %.2f ms\n", name, config, step,
                set_up_and_step, entries, whole);
  }
}

// Eight micro-batches of 1,024 tokens inside 24 GiB and 64 GiB, planned for a card that is not here (its rates as device/cuda.cu has them).
TEST(DryRun, A70BOn24GiB) {
  train::Setup setup{.method = {.lora = nn::lora_on(16, 2), .format = quant::FormatId::nf4_dq}, .optimizer = optim::OptimizerId::adamw_8bit,
                     .tokens_per_row = 1024};
  setup.model = models::parse_config(parse_json(config_70b, "config.json"), "config.json");
  const DeviceSpec h200{.kind = DeviceKind::cuda, .name = "an H200", .compute = DType::bf16, .flops = 7e14, .memory_bandwidth = 4e12, .link_bandwidth = 5e10,
                        .matmul_workspace = int64_t{32} << 20};
  const Budget budget{(int64_t{24} << 30) - (int64_t{640} << 20), int64_t{64} << 30};
  const Space space{.layers = 80, .accumulation = 8, .can_stream = true, .packed = true, .tokens_per_row = 1024, .vocab = setup.model.vocab};
  const auto begin = std::chrono::steady_clock::now();
  const Choice choice = choose(budget, space, [&](const Plan& p) { return train::Trainer::rehearse(h200, setup, p); });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  ASSERT_TRUE(choice.best.has_value());
  EXPECT_GE(choice.best->outcome.tokens_per_second(choice.best->plan), 1450);
  EXPECT_GT(choice.best->plan.window, 1);  // one after the other the link would bind it
  std::printf("%s%d plans tried in %.2f s\n", report(*choice.best, budget, h200, 0).c_str(), choice.tried, seconds);
}

}  // namespace
}  // namespace thimble::plan
