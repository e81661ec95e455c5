// doctor and bench: what this machine has, and how near to its limits a step comes.
#include <chrono>
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/threads.h"
#include "cli/commands.h"
#include "cli/run_plan.h"
#include "models/registry.h"
#include "ops/matmul.h"
#include "serve/engine.h"
#include "store/weight_source.h"

namespace thimble::cli {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

int doctor() {
  const auto spec = machine(std::nullopt);
  std::printf("instructions      %s\nthreads           %d\nactivations       %s\nmemory available  %s\nCUDA              %s\n",
              cpu_instructions().c_str(), thread_count(), std::string(name_of(spec.compute)).c_str(), human_bytes(available_bytes()).c_str(),
              has_cuda ? "built in" : "not built in");
  return 0;
}

struct Bench {
  std::string config;
  int64_t tokens = 512, rank = 16, steps = 3, decode = 0;
  std::string format = "nf4_dq";
  std::optional<int64_t> threads;
  bool full = false;
};

// The machine's own rates: oneDNN on the model's largest product, and a read of memory.
double matrix_rate(comm::Rank& rank, int64_t tokens, const nn::ModelSpec& m) {
  const Scope scope(rank.memory);
  const int64_t f = m.layers.front().ffn;
  const Tensor x = rank.memory.take(Use::scratch, "x", rank.compute(), {tokens, m.hidden}),
               w = rank.memory.take(Use::scratch, "w", rank.compute(), {f, m.hidden}),
               y = rank.memory.take(Use::scratch, "y", rank.compute(), {tokens, f});
  std::memset(x.data, 0, size_t(x.bytes()));
  std::memset(w.data, 0, size_t(w.bytes()));
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto t = Clock::now();
    ops::matmul(rank.stream, {.y = y, .a = x, .b = w, .tb = ops::Trans::yes});
    best = std::min(best, since(t));
  }
  return 2.0 * double(tokens) * double(f) * double(m.hidden) / best;
}

double read_rate(comm::Rank& rank) {
  const Scope scope(rank.memory);
  const Tensor t = rank.memory.take(Use::scratch, "read", DType::f32, {int64_t{64} << 20});
  const float* p = t.get<float>();
  double best = 1e30;
  volatile float sink = 0;
  for (int round = 0; round < 4; ++round) {
    const auto started = Clock::now();
    parallel_for(t.count(), 1 << 20, [&](int64_t begin, int64_t end) {
      float sums[64] = {};
      for (int64_t i = begin; i + 64 <= end; i += 64)
#pragma omp simd
        for (int j = 0; j < 64; ++j) sums[j] += p[i + j];
      sink = sink + sums[0];
    });
    best = std::min(best, since(started));
  }
  return double(t.bytes()) / best;
}

int bench_decode(const Bench& b, const nn::ModelSpec& model, const DeviceSpec& spec) {
  const serve::EngineShape shape{.model = model, .method = {.format = quant::format(b.format).id}, .context = b.decode + 64, .prefill_chunk = 32};
  const auto outcome = serve::Engine::rehearse(spec, shape);
  const auto device = cpu_device(spec);
  comm::Rank rank(*device, {outcome.peak[0] + (int64_t{256} << 20) + (1 << 20), outcome.peak[1], 0});
  const double bandwidth = read_rate(rank);
  serve::Engine engine(rank, shape);
  engine.load(store::random_weights(engine.model().weights().table(), 0).get());
  serve::Sampler greedy({});
  const std::vector<int32_t> prompt{1, 2, 3};
  engine.generate(prompt, 4, {}, greedy);
  Profile profile;
  rank.stream.profile = &profile;
  const auto started = Clock::now();
  engine.generate(prompt, b.decode, {}, greedy);
  const double seconds = since(started) / double(b.decode);
  double bytes = 0;
  for (const auto& layer : engine.model().weights().table().layers) bytes += double(store::slab_bytes(layer));
  bytes += double(engine.model().head().dense().bytes());
  std::printf("%sdecode %s at batch 1: %.2f tokens/s, %.2f GB/s of weights, %.0f%% of the read bandwidth %.2f GB/s\n", table(profile, spec).c_str(),
              b.format.c_str(), 1 / seconds, bytes / seconds / 1e9, 100 * bytes / seconds / bandwidth, bandwidth / 1e9);
  return 0;
}

int bench(const Bench& b) {
  DeviceSpec spec = machine(b.threads);
  const auto model = models::read_model(b.config);
  if (b.decode > 0) return bench_decode(b, model, spec);
  train::Setup setup{.model = model, .method = {.trains_weights = b.full, .format = b.full ? quant::FormatId::dense : quant::format(b.format).id},
                     .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = b.tokens};
  if (!b.full) {
    setup.method.lora = {.rank = b.rank, .scale = 2};
    for (int p = 0; p < nn::layer_param_count; ++p) setup.method.lora.targets[size_t(p)] = nn::is_matrix(p);
  }
  const plan::Budget budget{available_bytes() / 4 * 3, available_bytes() / 4};
  const int layers = int(model.layers.size());
  const auto choice = plan::choose(budget, {.layers = layers, .resident_layers = layers, .tokens_per_row = b.tokens, .vocab = model.vocab},
                                   [&](const plan::Plan& p) { return train::Trainer::rehearse(spec, setup, p); });
  check(choice.best.has_value(), "the bench fits this machine");
  const auto device = cpu_device(spec);
  comm::Rank rank(*device, {choice.best->outcome.peak[0] + (int64_t{256} << 20), choice.best->outcome.peak[1], 0});
  const double rate = matrix_rate(rank, b.tokens, model);
  train::Trainer trainer(rank, setup, choice.best->plan);
  trainer.load(store::random_weights(trainer.model().weights().table(), 0).get());
  data::MicroBatch batch;
  for (int64_t i = 0; i < b.tokens; ++i) {
    batch.ids.push_back(int32_t(philox(1, 2, uint64_t(i))[0] % uint64_t(model.vocab)));
    batch.targets.push_back(batch.ids.back());
    batch.positions.push_back(int32_t(i));
    batch.start.push_back(0);
  }
  Profile profile;
  std::vector<double> seconds;
  for (int64_t i = 0; i < b.steps + 1; ++i) {
    if (i == 1) rank.stream.profile = &profile;
    const auto started = Clock::now();
    trainer.step({&batch, 1}, 1e-4);
    if (i > 0) seconds.push_back(since(started));
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  double flops = 0;
  for (const auto& row : profile.rows()) flops += row.flops;
  std::printf("%s%s\nstep of %lld tokens: %.3f s, %.2f tokens/s; %.1f GFLOP/s of work, %.0f%% of oneDNN's %.1f GFLOP/s on the gate's shape\n",
              plan::report(*choice.best, budget, spec, 0).c_str(), table(profile, spec).c_str(), static_cast<long long>(b.tokens), median,
              double(b.tokens) / median, flops / double(b.steps) / median / 1e9, 100 * flops / double(b.steps) / median / rate, rate / 1e9);
  return 0;
}

}  // namespace

void add_machine(CLI::App& app, Run& run) {
  app.add_subcommand("doctor", "what this machine has and which paths are taken on it")->callback([&run] { run = doctor; });
  const auto b = std::make_shared<Bench>();
  auto* c = app.add_subcommand("bench", "time a training step, or decode, at a config's shape with seeded weights");
  c->add_option("config", b->config, "config.json or a model folder")->required();
  c->add_option("--tokens", b->tokens, "of one step")->check(CLI::Range(1, 1 << 20));
  c->add_option("--format", b->format, "of the base: dense, nf4, nf4_dq");
  c->add_option("--rank", b->rank, "of the adapters")->check(CLI::Range(1, 4096));
  c->add_option("--steps", b->steps)->check(CLI::Range(1, 1000));
  c->add_option("--decode", b->decode, "tokens to decode instead of training");
  c->add_option("--threads", b->threads);
  c->add_flag("--full", b->full, "train all weights");
  c->callback([=, &run] { run = [=] { return bench(*b); }; });
}

}  // namespace thimble::cli
