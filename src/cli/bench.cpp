// bench: a training step or decode at a config's shape, with seeded weights, beside the machine's own rates measured in the same process.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <map>
#include <numeric>

#include "base/file.h"
#include "base/philox.h"
#include "cli/calibration.h"
#include "cli/commands.h"
#include "cli/run_plan.h"
#include "cli/session.h"
#include "device/card_memory.h"
#include "device/cuda.h"
#include "models/registry.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "store/weight_source.h"

namespace thimble::cli {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

struct Bench {
  std::string config, format = "nf4_dq", head = "dense", device = "auto", save = "auto", compute = "auto";
  int64_t tokens = 512, batch = 1, accumulation = 1, rank = 16, steps = 3, decode = 0, context = 0, sequences = 1;
  std::optional<int64_t> threads, resident, processor, window;
  float max_grad_norm = 1;
  double temperature = 0, top_p = 1, repetition_penalty = 1;
  std::optional<std::string> vram, ram, disk;
  std::string trace;
  bool profile = false, calibrate = false;
  bool full = false, pure_bf16 = false, hold_back = false, paged = false, deterministic = false;
};

// The shortest of some runs, the device's work included.
double best_of(comm::Rank& rank, int runs, const std::function<void()>& work) {
  double best = 1e30;
  for (int i = 0; i < runs; ++i) {
    rank.device.synchronize();
    const auto started = Clock::now();
    work();
    rank.device.synchronize();
    best = std::min(best, since(started));
  }
  return best;
}

Tensor random_tensor(comm::Rank& rank, DType type, Shape shape) {
  const Tensor t = rank.memory.take(Use::scratch, "bench", type, shape);
  std::vector<float> host(size_t(t.count()));
  for (size_t i = 0; i < host.size(); ++i) host[i] = uniform_at(1, 2, i % 65521) - 0.5f;
  std::vector<std::byte> bytes(size_t(t.bytes()));
  visit_float(type, [&]<class T>(T) { std::transform(host.begin(), host.end(), reinterpret_cast<T*>(bytes.data()), [](float x) { return T(x); }); });
  rank.device.host_wait(rank.device.copy(Lane::in, t.data, bytes.data(), t.bytes(), 0));
  return t;
}

// Seconds of the library's product of `tokens` with a matrix (rows, columns), in the device's own type.
double product_seconds(comm::Rank& rank, int64_t tokens, int64_t rows, int64_t columns) {
  const Scope scope(rank.memory);
  const Tensor x = random_tensor(rank, rank.compute(), {tokens, columns}), w = random_tensor(rank, rank.compute(), {rows, columns});
  const Tensor y = rank.memory.take(Use::scratch, "bench", rank.compute(), {tokens, rows});
  return best_of(rank, 6, [&] { ops::matmul(rank.stream, {.y = y, .a = x, .b = w, .tb = ops::Trans::yes}); });
}

// flop/s of the library's matrix product on the model's largest matrix.
double matrix_rate(comm::Rank& rank, int64_t tokens, const nn::ModelSpec& m) {
  const int64_t f = m.layers.front().ffn;
  return 2.0 * double(tokens) * double(f) * double(m.hidden) / product_seconds(rank, tokens, f, m.hidden);
}

// Of its products with each matrix of the layers.
double library_seconds(const nn::ModelSpec& m, const DeviceSpec& spec, int64_t tokens) {
  std::map<std::pair<int64_t, int64_t>, int64_t> counts;  // by shape
  for (const auto& layer : nn::parameters(m, quant::FormatId::dense).layers)
    for (const auto& p : layer)
      if (p.shape.rank() == 2) ++counts[{p.shape[0], p.shape[1]}];
  int64_t most = 0;
  for (const auto& [shape, count] : counts) most = std::max(most, shape.first * shape.second + tokens * (shape.first + shape.second));
  const auto device = open_device(spec);
  comm::Rank rank(*device, {4 * most + spec.matmul_workspace + 4096, 0, 0});
  double seconds = 0;
  for (const auto& [shape, count] : counts) seconds += double(count) * product_seconds(rank, tokens, shape.first, shape.second);
  return seconds;
}

// Enough that launches do not count.
int64_t read_bytes(const DeviceSpec& spec) { return int64_t{spec.kind == DeviceKind::cuda ? 2048 : 256} << 20; }
double read_rate(comm::Rank& rank, const DeviceSpec& spec) {
  const Scope scope(rank.memory);
  const Tensor x = rank.memory.take(Use::scratch, "bench", DType::f32, {read_bytes(spec) / 4}), sum = rank.memory.take(Use::scratch, "bench", DType::f32, {1});
  ops::zero(rank.stream, x);
  return double(x.bytes()) / best_of(rank, 5, [&] { ops::sum_of_squares(rank.stream, sum, x); });
}

// All of the card but `leave` bytes, held by a plain allocation for as long as this lives.
class HeldBack {
 public:
  HeldBack(Device& device, const DeviceSpec& spec, int64_t leave) {
#ifdef THIMBLE_CUDA
    if (spec.kind == DeviceKind::cuda) storage_ = device.reserve(Tier::device, std::max<int64_t>(0, cuda_free_bytes(spec.index) - leave));
#else
    (void)device, (void)spec, (void)leave;
#endif
  }
  int64_t bytes() const { return storage_.bytes(); }

 private:
  Storage storage_;
};

int64_t card_free(const DeviceSpec& spec) {
#ifdef THIMBLE_CUDA
  if (spec.kind == DeviceKind::cuda) return cuda_free_bytes(spec.index);
#endif
  (void)spec;
  return 0;
}

// What the card lost to this process since before its context, less what is held back; at its most.
class CardLoss {
 public:
  explicit CardLoss(const DeviceSpec& spec) : free_(spec.free), card_(spec.free > 0 ? spec.address : "") {}
  int64_t now() const { return free_ - card_.free_bytes().value_or(free_); }
  void sample(const HeldBack& held) { most_ = std::max(most_, now() - held.bytes()); }
  int64_t most() const { return most_; }

 private:
  int64_t free_;
  CardMemory card_;
  int64_t most_ = 0;
};

// What the bench itself takes beside the plan: the operands of its two measurements, one at a time.
int64_t bench_bytes(int64_t tokens, const nn::ModelSpec& m, const DeviceSpec& spec) {
  const int64_t f = m.layers.front().ffn;
  return std::max(read_bytes(spec) + (1 << 20), 4 * (tokens * m.hidden + f * m.hidden + tokens * f) + spec.matmul_workspace + 4096);
}

void print_rates(const nn::ModelSpec& model, const DeviceSpec& spec, int64_t tokens, double& matrix, double& read) {
  const auto device = open_device(spec);
  comm::Rank rank(*device, {bench_bytes(tokens, model, spec), 0, 0});
  matrix = matrix_rate(rank, tokens, model);
  read = read_rate(rank, spec);
  std::printf("%s: matrix products %.1f TFLOP/s on the gate's shape, reads %.1f GB/s\n", spec.name.c_str(), matrix / 1e12, read / 1e9);
}

[[noreturn]] void refuse_budget(const plan::Budget& budget, const plan::Outcome& least) {
  throw Error(Fault::does_not_fit, {.what = "no plan fits", .expected = human_bytes(budget.device) + " of the device, " + human_bytes(budget.ram) + " of RAM",
                                    .found = "the least takes " + human_bytes(least.device()) + " and " + human_bytes(least.ram())});
}

plan::Budget budget_of(const Bench& b, const DeviceSpec& spec) {
  const auto named = b.vram ? std::optional(parse_bytes(*b.vram, "--vram")) : std::nullopt;
  return {device_budget(spec, named), b.ram ? parse_bytes(*b.ram, "--ram") : spec.kind == DeviceKind::cpu ? available_bytes() / 4 : available_bytes() / 10 * 9};
}

// Bytes of keys and values that a step of one sequence reads, on average of those after the answer's first token.
double cache_bytes(const nn::ModelSpec& model, int64_t prompt, int64_t answer, DType compute) {
  double rows = 0;
  const int64_t steps = std::max<int64_t>(1, answer - 1);
  for (const auto& layer : model.layers)
    for (int64_t k = 1; k <= steps; ++k) {
      const int64_t seen = prompt + k;
      rows += double(2 * layer.kv_heads * layer.head_dim * (layer.window > 0 ? std::min(layer.window, seen) : seen));
    }
  return rows / double(steps) * double(size_of(compute));
}

int bench_decode(const Bench& b, const nn::ModelSpec& model, const DeviceSpec& spec) {
  double matrix = 0, bandwidth = 0;
  print_rates(model, spec, 512, matrix, bandwidth);
  const int64_t prompt_tokens = std::max<int64_t>(3, b.context);
  const double library = b.context > 3 ? library_seconds(model, spec, prompt_tokens) : 0;
  serve::EngineShape shape{.model = model, .method = {.format = quant::format(b.format).id, .head = quant::format(b.head).id},
                                 .context = prompt_tokens + b.decode + 64, .prefill_chunk = std::min<int64_t>(prompt_tokens, 4096), .sequences = b.sequences,
                                 .all_logits = false};
  if (b.resident) shape.resident_layers = int(*b.resident), shape.processor_layers = int(b.processor.value_or(0));
  const plan::Budget budget = budget_of(b, spec);
  const auto fit = b.resident ? serve::Fit{shape, serve::Engine::rehearse(spec, shape)} : fit_here(spec, shape, budget);
  const auto& outcome = fit.outcome;
  if (!plan::fits(outcome, budget)) refuse_budget(budget, outcome);
  std::printf("%s, %s of RAM; %s\n", human_bytes(outcome.device()).c_str(), human_bytes(outcome.ram()).c_str(), serve::describe(fit.shape).c_str());
  const auto device = open_device(spec);
  const HeldBack rest(*device, spec, b.hold_back ? budget.device : card_free(spec));
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], 0});
  serve::Engine engine(rank, fit.shape);
  engine.load(store::repeated_random_weights(engine.model().weights().table(), 0).get());
  rank.ledger.record(false);
  serve::Sampler sampler({.temperature = b.temperature, .top_p = b.top_p, .repetition_penalty = b.repetition_penalty});
  std::vector<int32_t> prompt(static_cast<size_t>(prompt_tokens));
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = int32_t(philox(3, 4, i)[0] % uint64_t(model.vocab));
  for (int64_t left = b.sequences; left > 0;) engine.generate([&] { return left-- > 0 ? std::optional(serve::Request{prompt, 4, &sampler}) : std::nullopt; }, {});
  std::vector<int32_t> answer;  // of the sequence that ended last
  struct Seconds { double passed, processor; };  // processor: of all threads, which other work on the machine does not change
  const auto answers = [&](int64_t tokens) -> Seconds {
    const auto started = Clock::now();
    const std::clock_t clock = std::clock();
    int64_t left = b.sequences;
    engine.generate([&] {
      return left-- > 0 ? std::optional(serve::Request{prompt, tokens, &sampler, nullptr, [&](serve::Generated g) { answer = std::move(g.ids); }}) : std::nullopt;
    }, {});
    return {since(started), double(std::clock() - clock) / CLOCKS_PER_SEC};
  };
  // Of a step of all sequences: what answers take beside their first tokens, which come of the prompt.
  const Seconds first = b.decode > 1 ? answers(1) : Seconds{}, all = answers(b.decode);
  const double steps = double(std::max<int64_t>(1, b.decode - 1)), seconds = (all.passed - first.passed) / steps;
  if (b.context > 3) {
    std::vector<double> runs;
    for (int i = 0; i < 3; ++i) {
      prompt[0] ^= 1;  // so that nothing of it is in the cache
      const auto started = Clock::now();
      engine.generate(prompt, 1, {}, sampler);
      runs.push_back(since(started));
    }
    std::sort(runs.begin(), runs.end());
    std::printf("prefill of %lld tokens: %.1f tokens/s, %.0f%% of the library's rate on the layers' shapes\n", static_cast<long long>(prompt_tokens),
                double(prompt_tokens) / runs[1], 100 * library / runs[1]);
  }
  Profile profile;
  rank.stream.profile = &profile;
  answers(b.decode);
  double bytes = double(quant::bytes_of(engine.model().head()));
  for (const auto& layer : engine.model().weights().table().layers) bytes += double(store::slab_bytes(layer));
  bytes += double(b.sequences) * cache_bytes(model, prompt_tokens, b.decode, rank.compute());
  std::printf("%sdecode %s, head %s, %lld at a time: %.2f tokens/s, %.2f GB/s of weights, keys and values, %.1f%% of the read bandwidth; %.1f ms of processor time a step\n", table(profile.by_op(spec), spec).c_str(), b.format.c_str(), b.head.c_str(),
              static_cast<long long>(b.sequences), double(b.sequences) / seconds,
              bytes / seconds / 1e9, 100 * bytes / seconds / bandwidth, 1e3 * (all.processor - first.processor) / steps);
  std::string tokens;
  for (const int32_t id : answer) tokens += fmt::format(" {}", id);
  std::printf("predicted %.2f tokens/s; generated%s\n", double(b.sequences) / outcome.window_seconds, tokens.substr(0, 200).c_str());
  return 0;
}

data::MicroBatch random_rows(int64_t rows, int64_t length, int64_t vocab) {
  data::MicroBatch batch;
  for (int64_t i = 0; i < rows * length; ++i) {
    batch.ids.push_back(int32_t(philox(1, 2, uint64_t(i))[0] % uint64_t(vocab)));
    batch.targets.push_back(batch.ids.back());
    batch.positions.push_back(int32_t(i % length));
    batch.start.push_back(int32_t(i / length * length));
  }
  return batch;
}

// The trace of the ops, and beside it the bytes of each tier at the time of the op that follows a change.
std::string trace_with_memory(const Profile& profile, const Ledger& ledger) {
  std::string text = chrome_trace(profile);
  text.resize(text.size() - 4);  // "\n]}\n"
  size_t op = 0;
  for (const Entry& e : ledger.entries()) {
    if (e.kind == Entry::Kind::ran) ++op;
    if ((e.kind != Entry::Kind::took && e.kind != Entry::Kind::gave_back) || op >= profile.events().size()) continue;
    text += fmt::format(",\n{{\"name\": \"{} bytes\", \"ph\": \"C\", \"pid\": 0, \"ts\": {:.3f}, \"args\": {{\"bytes\": {}}}}}", name_of(e.tier), profile.events()[op].start * 1e6,
                        e.offset + (e.kind == Entry::Kind::took ? aligned(e.bytes) : 0));
  }
  return text + "\n]}\n";
}

int bench(const Bench& b) {
  DeviceSpec spec = machine(b.device, b.threads);
  if (b.calibrate && spec.kind == DeviceKind::cuda)
    throw Error(Fault::usage, {.what = "rates are calibrated on the cpu device alone: a GPU's op is awaited in a profile, which adds to its time", .fix = "use device: cpu"});
  spec.deterministic = b.deterministic;
  if (b.compute != "auto") spec.compute = b.compute == "f32" ? DType::f32 : b.compute == "f16" ? DType::f16 : DType::bf16;
  auto model = models::read_model(b.config);
  model.stored = {};  // the weights are made here, not read
  if (b.decode > 0) return bench_decode(b, model, spec);
  train::Setup setup{.model = model, .method = {.weights = b.full ? nn::all_weights(b.pure_bf16 ? DType::bf16 : DType::f32) : nn::TrainedWeights{}, .format = b.full ? quant::FormatId::dense : quant::format(b.format).id},
                     .optimizer = optim::OptimizerId::adamw_8bit, .max_grad_norm = b.max_grad_norm, .tokens_per_row = b.tokens};
  if (!b.full) setup.method.lora = nn::lora_on(b.rank, 2);
  setup.tables = nn::tables_of(setup.model, setup.method);
  double rate = 0, read = 0;
  print_rates(model, spec, b.tokens * b.batch, rate, read);
  plan::Budget budget = budget_of(b, spec);
  plan::Space space = space_of(setup, spec);
  space.batch = b.batch, space.accumulation = b.accumulation, space.paged_optimizer = b.paged;
  if (b.disk) {
    train::DiskSpace disk;
    if (!assign(disk, Json(*b.disk))) throw Error(Fault::usage, {.what = "no room on a disk", .where = "--disk", .expected = type_name(disk), .found = *b.disk});
    budget.disk = disk_budget(spec, disk, true);
    space.has_disk = true;
  }
  if (b.save == "keep") space.save = nn::Save::keep;
  if (b.save == "recompute") space.recompute_all = true;
  if (b.save == "offload") space.save = nn::Save::offload;
  if (b.resident) space.resident_layers = int(*b.resident);
  if (!space.window) space.window = b.window;
  const auto planning = Clock::now();
  const auto choice = plan::choose(budget, space, [&](const plan::Plan& p) { return train::Trainer::rehearse(spec, setup, p); });
  const double planned_in = since(planning);
  if (!choice.best) refuse_budget(budget, choice.least.outcome);
  const auto& [plan, outcome] = *choice.best;
  std::printf("%s%d plans tried in %.2f s\n", plan::report(*choice.best, budget, spec, 0).c_str(), choice.tried, planned_in);
  std::fflush(stdout);
  const auto device = open_device(spec);
  const int64_t free_before = card_free(spec);
  CardLoss loss(spec);
  // A card of that size has the context on it too; its kernels that are not loaded yet still have to find room.
  const int64_t still_to_load = spec.free > 0 ? std::max<int64_t>(0, spec.overhead - loss.now()) : 0;
  const HeldBack rest(*device, spec, b.hold_back ? budget.device + still_to_load : free_before);
  const int64_t free_inside = card_free(spec);
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], 0, outcome.disk()});
  train::Trainer trainer(rank, setup, plan);
  const auto loading = Clock::now();
  trainer.load(store::repeated_random_weights(trainer.model().weights().table(), 0).get());
  rank.ledger.record(false);
  loss.sample(rest);
  std::printf("loaded in %.1f s\n", since(loading));
  std::fflush(stdout);
  const std::vector<data::MicroBatch> window(size_t(plan.accumulation), random_rows(plan.micro_batch, b.tokens, model.vocab));
  std::vector<double> seconds, losses;
  for (int64_t i = 0; i < b.steps + 1; ++i) {
    const auto started = Clock::now();
    losses.push_back(trainer.step(window, 1e-4).loss);
    if (i > 0) seconds.push_back(since(started));
    loss.sample(rest);
  }
  const int64_t free_after = card_free(spec);
  Profile profile;
  rank.stream.profile = &profile;
  rank.ledger.clear_entries();
  rank.ledger.record(true);
  trainer.step(window, 1e-4);
  if (b.profile) std::printf("%s\n", table(profile.by_layer(spec), spec).c_str());
  if (!b.trace.empty()) write_atomically(b.trace, trace_with_memory(profile, rank.ledger));
  if (b.calibrate) {
    keep_rates(cache_folder(), machine_name(spec), measured_rates(profile, spec));
    std::printf("rates of %zu ops kept in %s: plans on this machine are timed by them\n", measured_rates(profile, spec).size(), cache_folder().c_str());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  double flops = 0;
  for (const auto& row : profile.events()) flops += row.flops;
  const int64_t tokens = b.tokens * b.batch * b.accumulation;
  std::printf("%s\nloss %.4f -> %.4f; ", table(profile.by_op(spec), spec).c_str(), losses.front(), losses.back());
  if (spec.kind == DeviceKind::cuda)
    std::printf("card: %s taken beside the context's (%s planned); ", human_bytes(free_inside - free_after).c_str(), human_bytes(outcome.peak[0]).c_str());
  if (loss.most() > 0) {
    const int64_t planned = outcome.device() + spec.overhead;
    std::printf("card: planned %s, measured %s (%.3f); ", human_bytes(planned).c_str(), human_bytes(loss.most()).c_str(),
                double(loss.most()) / double(planned));
  }
  std::printf("\nstep of %lld tokens: %.4f s (predicted %.4f), %.1f tokens/s; %.2f TFLOP/s of work, %.0f%% of the library's %.2f on the gate's shape\n",
              static_cast<long long>(tokens), median, outcome.step_seconds(plan), double(tokens) / median, flops / median / 1e12, 100 * flops / median / rate, rate / 1e12);
  return 0;
}

}  // namespace

namespace {

CLI::App* add(CLI::App& app, Run& run, const char* name, const char* help, const std::shared_ptr<Bench>& b) {
  auto* c = app.add_subcommand(name, help);
  c->add_option("config", b->config, "config.json or a model folder")->required();
  c->add_option("--tokens", b->tokens, "of one sequence")->check(CLI::Range(1, 1 << 24));
  c->add_option("--batch", b->batch, "sequences of one step, times --accumulation")->check(CLI::Range(1, 4096));
  c->add_option("--accumulation", b->accumulation, "of micro-batches")->check(CLI::Range(1, 4096));
  c->add_option("--format", b->format, "of the base: dense, nf4, nf4_dq, int8");
  c->add_option("--rank", b->rank, "of the adapters")->check(CLI::Range(1, 4096));
  c->add_option("--steps", b->steps)->check(CLI::Range(1, 1000));
  c->add_option("--save", b->save, "what forward leaves for backward: auto, keep, recompute, offload")->check(CLI::IsMember({"auto", "keep", "recompute", "offload"}));
  c->add_option("--resident", b->resident, "layers on the device; the rest streams")->check(CLI::Range(0, 1000));
  c->add_option("--on-processor", b->processor, "with --decode and --resident: of the rest, layers that the processor multiplies by")->check(CLI::Range(0, 1000));
  c->add_option("--window", b->window, "micro-batches that a layer runs before the next one does")->check(CLI::Range(1, 4096));
  c->add_option("--head", b->head, "of decode: format of the head, and of an embedding that is one");
  c->add_option("--sequences", b->sequences, "that decode at a time")->check(CLI::Range(1, 256));
  c->add_option("--decode", b->decode, "tokens to decode instead of training");
  c->add_option("--temperature", b->temperature, "of decode: 0 takes the likeliest token")->check(CLI::Range(0.0, 100.0));
  c->add_option("--top-p", b->top_p, "of decode: the share of the likeliest tokens that one is drawn of")->check(CLI::Range(0.0, 1.0));
  c->add_option("--repetition-penalty", b->repetition_penalty, "of decode: above 1 tokens come back less")->check(CLI::Range(1e-6, 1e6));
  c->add_option("--context", b->context, "tokens of the prompt that decode begins with");
  c->add_option("--device", b->device, "auto, cpu or cuda");
  c->add_option("--vram", b->vram, "budget of the device, such as 24GiB");
  c->add_option("--ram", b->ram, "budget of host memory");
  c->add_option("--disk", b->disk, "room for frozen layers that fit nowhere else: /scratch:200GiB");
  c->add_option("--threads", b->threads)->check(CLI::Range(1, 4096));
  c->add_flag("--paged", b->paged, "optimizer states in host memory");
  c->add_option("--compute", b->compute, "type of activations: auto, f32, bf16, f16")->check(CLI::IsMember({"auto", "f32", "bf16", "f16"}));
  c->add_flag("--deterministic", b->deterministic, "the same bits in every run");
  c->add_option("--max-grad-norm", b->max_grad_norm, "clips; 0: does not")->check(CLI::Range(0.0, 1e9));
  c->add_flag("--full", b->full, "train all weights");
  c->add_flag("--pure-bf16", b->pure_bf16, "these in bf16");
  c->add_flag("--hold-back", b->hold_back, "hold all of the card but the budget, so that the run lives on a card of that size");
  c->callback([=, &run] { run = [=] { return bench(*b); }; });
  return c;
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  const auto b = std::make_shared<Bench>(), p = std::make_shared<Bench>();
  auto* bench = add(app, run, "bench", "time a training step, or decode, at a config's shape with seeded weights", b);
  bench->add_flag("--calibrate", b->calibrate, "keep what each op was measured to take for the plans of this machine");
  p->profile = true, p->steps = 1;
  auto* profile = add(app, run, "profile", "a training step at a config's shape, op by op and layer by layer, predicted beside measured", p);
  profile->add_option("--trace", p->trace, "write a trace for chrome://tracing or Perfetto: ops, and the bytes of each tier");
}

}  // namespace thimble::cli
