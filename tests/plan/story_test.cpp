// What is told of a plan is what its dry run says: peaks, shares of time, alternatives; and the ladder, level by level.
#include <gtest/gtest.h>

#include <numeric>

#include "device/catalogue.h"
#include "models/registry.h"
#include "plan/report.h"
#include "train/trainer.h"

namespace thimble::plan {
namespace {

struct Planned {
  train::Setup setup;
  DeviceSpec spec;
  Space space;
  Budget budget;
  Choice choice;
  DryRun dry_run() const {
    return [this](const Plan& p) { return train::Trainer::rehearse(spec, setup, p); };
  }
};

Planned planned(const char* gpu, int64_t device, int64_t tokens) {
  nn::ModelSpec m{.family = "llama", .vocab = 32000, .hidden = 2048, .max_positions = 8192, .dtype = "bfloat16"};
  m.layers.assign(20, {.heads = 16, .kv_heads = 4, .head_dim = 128, .ffn = 5632});
  Planned p{.setup = {.model = m, .method = {.lora = nn::lora_on(8, 2), .format = quant::FormatId::nf4}, .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = tokens},
            .spec = spec_of(*find_gpu(gpu)), .space = {.layers = 20, .accumulation = 4, .can_stream = true, .layers_alike = true, .packed = true, .tokens_per_row = tokens, .vocab = m.vocab},
            .budget = {device, int64_t{16} << 30}};
  p.choice = choose(p.budget, p.space, p.dry_run());
  return p;
}

Story story_of(const Planned& p) {
  const auto step = train::Trainer::rehearse_a_step(p.spec, p.setup, p.choice.best->plan);
  return {.choice = p.choice, .budget = p.budget, .spec = p.spec, .process_bytes = 1 << 20, .model = "a model", .rows = 1000, .analysis = analyse(step.ledger, step.step, p.spec)};
}

TEST(Story, SaysWhatTheDryRunFound) {
  const Planned p = planned("rtx4090", int64_t{1} << 30, 2048);
  ASSERT_TRUE(p.choice.best.has_value());
  const Story s = story_of(p);
  const auto& [plan, o] = *p.choice.best;
  // All that is alive at the peak is the peak.
  for (const Tier t : {Tier::device, Tier::pinned}) {
    const auto& alive = s.analysis.alive_at_peak[size_t(t)];
    EXPECT_EQ(std::accumulate(alive.begin(), alive.end(), int64_t{0}, [](int64_t sum, const Alive& a) { return sum + a.bytes; }), o.peak[size_t(t)]);
  }
  int64_t highest = 0;
  for (const Point& point : s.analysis.timeline[size_t(Tier::device)]) highest = std::max(highest, point.bytes);
  EXPECT_EQ(highest, o.peak[size_t(Tier::device)]);
  const TimeShares& t = s.analysis.time;
  EXPECT_NEAR(t.matrix + t.memory + t.vector + t.fixed + t.waiting, o.window_seconds + o.update_seconds, 1e-6);
  EXPECT_GE(o.step_seconds(plan) * (1 + 1e-9), o.busy[0]);
  const Json j = to_json(s);
  EXPECT_EQ(j["total"]["device_bytes"], o.device() + p.spec.overhead);
  EXPECT_EQ(j["tiers"]["device"]["bytes"], o.peak[0]);
  EXPECT_FALSE(j["alternatives"].empty());
  const std::string page = to_html(s);
  for (const char* part : {"<svg", "Alive when the device is fullest", "Alternatives considered", "</html>"}) EXPECT_NE(page.find(part), std::string::npos) << part;
  EXPECT_EQ(page.find("http"), std::string::npos);  // needs no other file
  EXPECT_NE(reasons(s).find("what binds: "), std::string::npos);
  EXPECT_NE(bars(s).find("device [w"), std::string::npos);
}

TEST(Story, TheLadderIsDryRunLevelByLevel) {
  const Planned p = planned("rtx3090", int64_t{8} << 30, 1024);
  const auto all = rungs(p.space, p.choice.best->plan, p.dry_run());
  ASSERT_EQ(all.size(), ladder().size());
  EXPECT_GT(all.front().candidate.outcome.device(), all.back().candidate.outcome.device());
  const std::string text = explain(all, story_of(p));
  for (const Level& level : ladder()) EXPECT_NE(text.find(level.name), std::string::npos);
}

// No alternative is beaten by another in time and both memories.
TEST(Story, AlternativesAreAFront) {
  const Planned p = planned("rtx4090", int64_t{1} << 30, 2048);
  const auto& front = p.choice.front;
  ASSERT_GE(front.size(), 2u);
  for (size_t i = 0; i < front.size(); ++i)
    for (size_t j = 0; j < front.size(); ++j) {
      if (i == j) continue;
      const auto &a = front[i], &b = front[j];
      EXPECT_FALSE(a.outcome.step_seconds(a.plan) <= b.outcome.step_seconds(b.plan) && a.outcome.device() <= b.outcome.device() && a.outcome.ram() <= b.outcome.ram());
    }
}

// Sizes that follow from the format, on all that the catalogue names.
TEST(Catalogue, ACardIsItsRow) {
  for (const Gpu& g : gpus()) {
    const DeviceSpec spec = spec_of(g);
    EXPECT_EQ(find_gpu(g.key), &g);
    EXPECT_EQ(spec.compute, g.capability >= 80 ? DType::bf16 : DType::f16) << g.key;
    EXPECT_LT(spec.flops, g.half * 1e12) << g.key;
    EXPECT_LT(spec.memory_bandwidth, g.memory_gb * 1e9) << g.key;
    EXPECT_GT(spec.memory, spec.overhead) << g.key;
    EXPECT_EQ(gpu_of_driver_name(std::string("NVIDIA ") + g.name), &g);
  }
  EXPECT_EQ(find_gpu("rtx9090"), nullptr);
  EXPECT_EQ(gpu_of_driver_name("NVIDIA something else"), nullptr);
}

}  // namespace
}  // namespace thimble::plan
