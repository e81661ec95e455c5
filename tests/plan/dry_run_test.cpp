// How long a dry run takes, from the text of a config.json and no weights: printed, not asserted, since machines differ and share.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "device/catalogue.h"
#include "models/registry.h"
#include "plan/report.h"
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

DeviceSpec an_h200() { return spec_of(*find_gpu("h200")); }
Budget on_24_gib(int64_t ram_gib) { return {(int64_t{24} << 30) - an_h200().overhead, ram_gib << 30}; }

// Llama-3.1-8B, QLoRA, one sequence of `tokens`.
train::Setup long_context(int64_t tokens) {
  nn::ModelSpec m{.family = "llama", .vocab = 128256, .hidden = 4096, .max_positions = 262144, .dtype = "bfloat16"};
  m.layers.assign(32, {.heads = 32, .kv_heads = 8, .head_dim = 128, .ffn = 14336});
  train::Setup setup{.model = m, .method = {.lora = nn::lora_on(16, 2), .format = quant::FormatId::nf4_dq}, .optimizer = optim::OptimizerId::adamw_8bit,
                     .tokens_per_row = tokens};
  return setup;
}

void print_outcome(int64_t tokens, int64_t ram, const Candidate& c) {
  std::printf("%lld tokens, %lld GiB of RAM: %.2f GiB of the card, %.2f GiB of RAM, %.0f tokens/s; %d layers resident, chunks of %lld, %s\n", static_cast<long long>(tokens),
              static_cast<long long>(ram), double(c.outcome.device() + an_h200().overhead) / double(1 << 30), double(c.outcome.ram()) / double(1 << 30),
              c.outcome.tokens_per_second(c.plan), c.plan.resident_layers, static_cast<long long>(c.plan.token_chunk), describe_saves(c.plan).c_str());
  std::fflush(stdout);
}

// What the search finds, all lengths of docs/long-contexts.md: minutes.
TEST(DryRun, DISABLED_LongContextsOf8BOn24GiB) {
  for (const int64_t ram : {64, 128})
    for (const int64_t tokens : {32768, 65536, 100000, 150000, 200000}) {
      const Space space{.layers = 32, .can_stream = true, .can_window = true, .layers_alike = true, .packed = true, .can_host_embedding = true, .tokens_per_row = tokens, .vocab = 128256};
      const Choice choice = choose(on_24_gib(ram), space, [&](const Plan& p) { return train::Trainer::rehearse(an_h200(), long_context(tokens), p); });
      if (choice.best) print_outcome(tokens, ram, *choice.best);
      else std::printf("%lld tokens, %lld GiB of RAM: do not fit\n", static_cast<long long>(tokens), static_cast<long long>(ram));
    }
}

// A plan of theirs, and that no buffer of all tokens and all of the MLP's channels is among what it takes.
TEST(DryRun, LongContextsOf8BOn24GiB) {
  const auto fits = [](int64_t tokens, int64_t chunk, const char* level, double least) {
    Plan plan{.resident_layers = 32, .head_chunk = 1024, .token_chunk = chunk, .embedding_on_host = true};
    for (const auto& l : ladder())
      if (std::string_view(l.name) == level) plan.save.assign(32, l.save);
    const Candidate c{plan, train::Trainer::rehearse(an_h200(), long_context(tokens), plan)};
    print_outcome(tokens, 64, c);
    const Budget b = on_24_gib(64);
    return c.outcome.device() <= b.device && c.outcome.ram() <= b.ram && c.outcome.tokens_per_second(plan) >= least;
  };
  EXPECT_TRUE(fits(150000, 8192, "recompute block, offload input", 2000));
  EXPECT_TRUE(fits(100000, 8192, "recompute block, offload input", 3000));
  EXPECT_TRUE(fits(200000, 8192, "recompute block, offload input", 0));
  EXPECT_FALSE(fits(150000, 0, "recompute block, offload input", 0));
}

// Llama-3.1-8B, all of it trained, every layer at home in host memory: 65,536 tokens a step as eight micro-batches, each layer crossing the link once each way.
TEST(DryRun, FullTuningOf8BOn24GiB) {
  const auto outcome = [](optim::OptimizerId optimizer, float max_grad_norm, int64_t micro_batches, DType dtype = DType::f32) {
    train::Setup setup = long_context(8192);
    setup.method = {.weights = nn::all_weights(dtype)};
    setup.optimizer = optimizer, setup.max_grad_norm = max_grad_norm;
    Plan plan{.accumulation = micro_batches, .window = micro_batches, .unpack_layer = dtype == DType::f32, .resident_layers = 0, .head_chunk = 1024, .paged_optimizer = true};
    plan.save.assign(32, ladder().back().save);
    const Outcome o = train::Trainer::rehearse(an_h200(), setup, plan);
    std::printf("%lld tokens a step, weights in %s, %s, %s: %.2f GiB of the card, %.2f GiB of RAM, %.0f tokens/s\n", static_cast<long long>(8192 * micro_batches),
                name_of(dtype).data(), optimizer == optim::OptimizerId::adamw ? "f32 states" : "8-bit states", max_grad_norm > 0 ? "clipped" : "not clipped",
                double(o.device() + an_h200().overhead) / double(1 << 30), double(o.ram()) / double(1 << 30), o.tokens_per_second(plan));
    EXPECT_LE(o.device(), on_24_gib(0).device);
    return std::pair(double(o.ram()) / double(1 << 30), o.tokens_per_second(plan));
  };
  using enum optim::OptimizerId;
  const auto clipped = outcome(adamw_8bit, 1, 8), free = outcome(adamw_8bit, 0, 8), exact = outcome(adamw, 0, 8);
  outcome(adamw_8bit, 1, 2);
  outcome(adamw_8bit, 0, 2);
  const auto clipped_bf16 = outcome(adamw_8bit, 1, 8, DType::bf16), free_bf16 = outcome(adamw_8bit, 0, 8, DType::bf16);
  outcome(adamw, 1, 8, DType::bf16);
  outcome(adamw_8bit, 1, 2, DType::bf16);
  outcome(adamw_8bit, 0, 2, DType::bf16);
  EXPECT_LE(clipped_bf16.first, 63);
  EXPECT_LE(clipped.first, 126);
  EXPECT_LE(exact.first, 126);
  EXPECT_LE(free.first, 63);
  for (const auto& o : {clipped, free, exact, clipped_bf16, free_bf16}) EXPECT_GE(o.second, 7500);
}

// Eight micro-batches of 1,024 tokens inside 24 GiB and 64 GiB, planned for a card that is not here.
TEST(DryRun, A70BOn24GiB) {
  train::Setup setup{.method = {.lora = nn::lora_on(16, 2), .format = quant::FormatId::nf4_dq}, .optimizer = optim::OptimizerId::adamw_8bit,
                     .tokens_per_row = 1024};
  setup.model = models::parse_config(parse_json(config_70b, "config.json"), "config.json");
  const DeviceSpec h200 = an_h200();
  const Budget budget = on_24_gib(64);
  const Space space{.layers = 80, .accumulation = 8, .can_stream = true, .can_window = true, .layers_alike = true, .packed = true, .tokens_per_row = 1024, .vocab = setup.model.vocab};
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
