// A layer that the processor multiplies by gives the numbers of a resident one; phantom and real write the same; and fit() finds the fastest
// residency that a budget holds.
#include <gtest/gtest.h>

#include "base/philox.h"
#include "serve/fit.h"
#include "store/weight_source.h"

namespace thimble::serve {
namespace {

nn::ModelSpec model(int layers = 5) {
  nn::ModelSpec m{.family = "llama", .vocab = 101, .hidden = 64, .max_positions = 128, .dtype = "float32"};
  m.layers.assign(size_t(layers), {.heads = 6, .kv_heads = 3, .head_dim = 8, .ffn = 128, .qkv_bias = true});
  return m;
}

std::vector<int32_t> prompt(uint64_t seed, int64_t tokens) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) ids.push_back(int32_t(philox(1, seed, uint64_t(t))[0] % 101));
  return ids;
}

// What is generated, and the logits of a few tokens and of many; in arenas of exactly the planned bytes.
struct Machine {
  Machine(std::unique_ptr<Device> on, const comm::Capacity& capacity, const EngineShape& shape) : device(std::move(on)), rank(*device, capacity), engine(rank, shape) {
    const bool phantom = rank.is_phantom();
    engine.load(phantom ? nullptr : store::random_weights(engine.model().weights().table(), 5, 0.3f).get());
    engine.load_adapters([](const store::ParamSpec& p, Tensor to) {
      for (int64_t i = 0; i < to.count(); ++i) to.get<float>()[i] = uniform_at(7, uint64_t(p.shape[0]), uint64_t(i)) - 0.5f;
    });
    for (const int64_t tokens : {3, 20}) {
      const Tensor l = engine.logits(prompt(1, tokens));
      if (!phantom) logits.insert(logits.end(), l.get<float>(), l.get<float>() + l.count());
    }
    if (phantom) return;  // where no token is ever chosen
    std::vector<Sampler> samplers(size_t(shape.sequences), Sampler({}));
    int64_t asked = 0;
    engine.generate([&]() -> std::optional<Request> {
      if (asked == shape.sequences) return std::nullopt;
      const auto i = asked++;
      return Request{prompt(uint64_t(i) + 2, 12), 6, &samplers[size_t(i)], nullptr, [&](Generated g) { ids.insert(ids.end(), g.ids.begin(), g.ids.end()); }};
    }, {});
  }
  std::unique_ptr<Device> device;
  comm::Rank rank;
  Engine engine;
  std::vector<float> logits;
  std::vector<int32_t> ids;
};

TEST(Fit, LayersOfTheProcessorGiveTheNumbersOfResidentOnes) {
  for (const auto format : {quant::FormatId::dense, quant::FormatId::nf4, quant::FormatId::nf4_dq, quant::FormatId::int8})
    for (const bool adapters : {false, true})
      for (const int64_t sequences : {1, 3}) {
        const auto run = [&](int resident, int processor) {
          EngineShape shape{.model = model(), .method = {.format = format}, .context = 32, .prefill_chunk = 20, .sequences = sequences, .resident_layers = resident,
                            .processor_layers = processor};
          if (adapters) shape.method.lora = nn::lora_on(4, 2);
          const auto outcome = Engine::rehearse({}, shape);
          auto real = std::make_unique<Machine>(cpu_device({}), comm::Capacity{outcome.peak[0], outcome.peak[1]}, shape);
          const Machine planned(phantom_device({}), comm::boundless, shape);
          auto written = real->rank.ledger.entries();
          written.resize(std::min(written.size(), planned.rank.ledger.entries().size()));
          EXPECT_TRUE(written == planned.rank.ledger.entries());
          return real;
        };
        const auto all = run(-1, 0);
        for (const auto& [resident, processor] : {std::pair(2, 0), std::pair(2, 1), std::pair(2, 3), std::pair(0, 2), std::pair(0, 5)}) {
          const auto some = run(resident, processor);
          EXPECT_EQ(some->logits, all->logits) << quant::format(format).name << ", " << resident << " resident, " << processor << " of the processor";
          EXPECT_EQ(some->ids, all->ids);
        }
      }
}

TEST(Fit, FindsTheFastestThatABudgetHolds) {
  DeviceSpec cpu;
  cpu.memory_bandwidth = 6e10, cpu.vector_flops = 1e13, cpu.op_seconds = 0;
  DeviceSpec card{.kind = DeviceKind::cuda, .compute = DType::bf16, .flops = 5e14, .vector_flops = 5e13, .memory_bandwidth = 3e12, .link_bandwidth = 5e10, .op_seconds = 0};
  nn::ModelSpec large = model(12);
  large.hidden = 1024;
  for (auto& layer : large.layers) layer.ffn = 4096;
  const EngineShape shape{.model = large, .method = {.format = quant::FormatId::nf4}, .context = 64, .prefill_chunk = 16, .all_logits = false};
  const plan::Budget much{int64_t{1} << 40, int64_t{1} << 40};
  const Fit all = fit(card, shape, much);
  EXPECT_EQ(describe(all.shape), "");
  for (const double speed : {0.0, 6e9, 6e10, 6e11}) {  // of the processor; none at all
    cpu.memory_bandwidth = speed;
    card.processor = speed > 0 ? std::make_shared<const DeviceSpec>(cpu) : nullptr;
    double before = 1e30;
    for (const int share : {40, 60, 80, 100}) {
      const plan::Budget budget{all.outcome.device() * share / 100, much.ram};
      const Fit found = fit(card, shape, budget);
      if (!plan::fits(found.outcome, budget)) continue;
      EXPECT_LE(found.outcome.window_seconds, before) << "more budget is never slower";
      before = found.outcome.window_seconds;
      double least = 1e30;
      for (int resident = 0; resident <= 12; ++resident)
        for (int processor = 0; processor <= (speed > 0 ? 12 - resident : 0); ++processor) {
          EngineShape other = found.shape;
          other.resident_layers = resident, other.processor_layers = processor;
          if (const auto outcome = Engine::rehearse(card, other); plan::fits(outcome, budget)) least = std::min(least, outcome.window_seconds);
        }
      EXPECT_LE(found.outcome.window_seconds, least * 1.02) << describe(found.shape) << " at " << speed;
    }
    EXPECT_LT(before, 1e30);
    const plan::Budget half{all.outcome.device() * 6 / 10, much.ram};
    const auto of_half = fit(card, shape, half).shape;
    const int rest = 12 - of_half.resident_layers;
    EXPECT_GE(of_half.processor_layers, speed == 6e11 ? rest * 2 / 3 : speed == 6e10 ? 1 : 0);
    EXPECT_LE(of_half.processor_layers, speed == 0 ? 0 : speed == 6e10 ? rest - 1 : rest);
  }
  const plan::Budget nothing{1000, much.ram};
  EXPECT_FALSE(plan::fits(fit(card, shape, nothing).outcome, nothing));
}

}  // namespace
}  // namespace thimble::serve
