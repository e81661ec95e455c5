// Properties of the search, on random small shapes whose candidates are dry runs of the real step: what is chosen fits, nothing faster
// fits, more budget is never slower, and what the user fixed stays as it is.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/philox.h"
#include "device/catalogue.h"
#include "models/registry.h"
#include "plan/report.h"
#include "train/trainer.h"

namespace thimble::plan {
namespace {

using nn::Save;

DeviceSpec small_cpu() {
  DeviceSpec spec;
  spec.op_seconds = 1e-7;  // so that small shapes differ by their work
  return spec;
}

struct World {
  train::Setup setup;
  Space space;
};

// Everything about a small run, from a seed.
World random_world(uint64_t seed) {
  Draws draws{seed, 11};
  const auto between = [&](int64_t least, int64_t most) { return least + int64_t(draws.below(uint64_t(most - least + 1))); };
  nn::ModelSpec m{.family = "llama", .vocab = between(5, 300), .max_positions = 128, .tied_head = between(0, 1) == 1, .dtype = "bfloat16"};
  const int64_t kv = between(1, 3), head_dim = 2 * between(1, 8), heads = kv * between(1, 3);
  m.hidden = between(4, 80);
  m.layers.assign(size_t(between(1, 4)), {.heads = heads, .kv_heads = kv, .head_dim = head_dim, .ffn = between(8, 160)});
  World w{.setup = {.model = m, .tokens_per_row = between(2, 100)}, .space = {.layers = int(m.layers.size())}};
  const int64_t method = between(0, 3);
  if (method == 0) {
    w.setup.method.weights = nn::all_weights();
    w.setup.model.layers.resize(std::min<size_t>(w.setup.model.layers.size(), 2));
    w.space.layers = w.space.trained_layers = int(w.setup.model.layers.size());
  }
  if (method > 0) {
    w.setup.method.format = std::array{quant::FormatId::dense, quant::FormatId::nf4, quant::FormatId::nf4_dq}[size_t(method - 1)];
    const int64_t rank = between(1, 9);
    w.setup.method.lora = nn::lora_on(rank, 2, [&](int p) { return p == nn::q_proj || between(0, 2) > 0; });
  }
  w.setup.optimizer = between(0, 1) ? optim::OptimizerId::adamw : optim::OptimizerId::adamw_8bit;
  w.space.batch = between(1, 3);
  w.space.accumulation = between(1, 3);
  w.space.can_stream = true;
  w.space.can_window = method > 0 || !m.tied_head;
  w.space.layers_alike = true;
  w.space.packed = method > 1;
  w.space.can_host_embedding = method > 0 && !m.tied_head;
  w.space.paged_optimizer = between(0, 1) == 1;
  w.space.token_chunks.clear();  // in every third world one, so that the others stay small
  if (seed % 3 == 0) w.space.token_chunks = {between(4, 60)};
  w.space.tokens_per_row = w.setup.tokens_per_row;
  w.space.vocab = m.vocab;
  return w;
}

// Two plans are the same exactly when their texts are.
std::string text(const Plan& p) {
  std::string s = fmt::format("micro {} x {} window {} unpacked {} resident {} disk {} unpacked {} chunk {} layers in chunks of {} paged {} embedding on host {}:", p.micro_batch, p.accumulation, p.window,
                              p.unpack_layer, p.resident_layers, p.disk_layers, p.unpacked_layers, p.head_chunk, p.token_chunk, p.paged_optimizer, p.embedding_on_host);
  for (const auto& layer : p.save) {
    s += ' ';
    for (const Save how : layer) s += char('0' + int(how));
  }
  return s;
}

// Each plan is dry-run once, however many budgets ask for it.
class Memory {
 public:
  explicit Memory(const train::Setup& setup) : setup_(setup) {}
  Outcome operator()(const Plan& p) {
    const auto key = text(p);
    asked.push_back(key);
    auto it = known_.find(key);
    if (it == known_.end()) {
      it = known_.emplace(key, train::Trainer::rehearse(small_cpu(), setup_, p)).first;
      all.push_back({p, it->second});
    }
    return it->second;
  }
  std::vector<Candidate> all;      // each once
  std::vector<std::string> asked;  // of the last search
 private:
  train::Setup setup_;
  std::map<std::string, Outcome> known_;
};

bool fits(const Candidate& c, const Budget& b) { return c.outcome.peak[size_t(Tier::device)] <= b.device && c.outcome.ram() <= b.ram && c.outcome.disk() <= b.disk; }

std::vector<std::pair<int64_t, int64_t>> pairs(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  std::vector<std::pair<int64_t, int64_t>> all;
  for (const int64_t x : a)
    for (const int64_t y : b) all.emplace_back(x, y);
  return all;
}

struct Tally { int refused = 0, chosen = 0, on_disk = 0; };

void chooses_the_fastest_that_fits(const World& w, uint64_t seed, Tally& tally) {
  Memory memory(w.setup);
  const auto search = [&](const Budget& b) {
    memory.asked.clear();
    return choose(b, w.space, std::ref(memory));
  };
  std::set<std::string> possible;
  for (const Plan& p : candidates(w.space)) {
    memory(p);
    EXPECT_TRUE(possible.insert(text(p)).second) << "twice: " << text(p);
  }
  const Choice nothing = search({-1, -1});
  ASSERT_FALSE(nothing.best.has_value());
  int64_t device[2] = {INT64_MAX, 0}, ram[2] = {INT64_MAX, 0};
  for (const auto& c : memory.all) {
    const int64_t d = c.outcome.peak[size_t(Tier::device)], r = c.outcome.ram();
    device[0] = std::min(device[0], d), device[1] = std::max(device[1], d);
    ram[0] = std::min(ram[0], r), ram[1] = std::max(ram[1], r);
  }
  EXPECT_EQ(nothing.least.outcome.peak[size_t(Tier::device)], device[0]);
  // Budgets from below the least to above the most, the candidates' own peaks and one byte less among them.
  std::vector<int64_t> devices{device[0] - 1, device[0], device[1]}, rams{ram[0] - 1, ram[0], ram[1]}, disks{0};
  int64_t most_on_disk = 0;
  for (const auto& c : memory.all) most_on_disk = std::max(most_on_disk, c.outcome.disk());
  if (most_on_disk > 0) disks.insert(disks.end(), {most_on_disk / 2, most_on_disk - 1, most_on_disk});
  Draws draws{seed, 12};
  for (int i = 0; i < 4; ++i) {
    const auto& c = memory.all[draws.below(memory.all.size())].outcome;
    devices.push_back(c.peak[size_t(Tier::device)] - int64_t(draws.below(2)));
    rams.push_back(c.ram() - int64_t(draws.below(2)));
  }
  struct Found { Budget budget; std::optional<double> seconds; };
  std::vector<Found> all_found;
  for (const int64_t d : devices)
    for (const auto& [r, k] : pairs(rams, disks)) {
      const Budget budget{d, r, k};
      const Choice choice = search(budget);
      for (const auto& asked : memory.asked) EXPECT_TRUE(possible.contains(asked)) << asked;
      EXPECT_EQ(size_t(choice.tried), std::set<std::string>(memory.asked.begin(), memory.asked.end()).size()) << "a candidate was tried twice";
      std::optional<double> fastest;
      bool device_suffices = false, ram_suffices = false;
      for (const auto& c : memory.all) {
        device_suffices |= c.outcome.peak[size_t(Tier::device)] <= d;
        ram_suffices |= c.outcome.ram() <= r;
        if (fits(c, budget)) fastest = std::min(fastest.value_or(INFINITY), c.outcome.step_seconds(c.plan));
      }
      ASSERT_EQ(choice.best.has_value(), fastest.has_value());
      EXPECT_EQ(choice.device_suffices, device_suffices);
      EXPECT_EQ(choice.ram_suffices, ram_suffices);
      choice.best ? ++tally.chosen : ++tally.refused;
      if (choice.best) {
        tally.on_disk += choice.best->plan.disk_layers > 0;
        EXPECT_TRUE(fits(*choice.best, budget)) << text(choice.best->plan);
        EXPECT_EQ(choice.best->outcome.step_seconds(choice.best->plan), *fastest);
      }
      all_found.push_back({budget, fastest});
    }
  for (const auto& less : all_found)
    for (const auto& more : all_found)
      if (less.seconds && more.budget.device >= less.budget.device && more.budget.ram >= less.budget.ram && more.budget.disk >= less.budget.disk) {
        ASSERT_TRUE(more.seconds.has_value());
        EXPECT_LE(*more.seconds, *less.seconds);
      }
}

TEST(Planner, ChoosesTheFastestThatFitsAndMoreBudgetIsNeverSlower) {
  Tally tally;
  for (uint64_t seed = 0; seed < 15; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    chooses_the_fastest_that_fits(random_world(seed), seed, tally);
  }
  EXPECT_GT(tally.refused, 100);
  EXPECT_GT(tally.chosen, 100);
  EXPECT_EQ(tally.on_disk, 0);  // none was offered
}

TEST(Planner, WithADiskToo) {
  Tally tally;
  int worlds = 0;
  for (uint64_t seed = 300; worlds < 2; ++seed) {
    World w = random_world(seed);
    if (w.setup.method.trains_weights() || w.space.layers < 2) continue;
    SCOPED_TRACE(fmt::format("seed {}", seed));
    w.space.has_disk = true;
    w.space.batch = 2, w.space.accumulation = 1, w.space.recompute_all = true, w.space.token_chunks.clear();  // few candidates, as there are many places
    w.setup.model.layers.resize(std::min<size_t>(w.setup.model.layers.size(), 3));
    w.space.layers = int(w.setup.model.layers.size());
    chooses_the_fastest_that_fits(w, seed, tally);
    ++worlds;
  }
  EXPECT_GT(tally.on_disk, 0);
}

// From 16 layers on the search believes more: that a place which relieves the device is found by halving, and what one mix of levels says of others.
TEST(Planner, WithManyLayers) {
  Tally tally;
  int worlds = 0;
  for (uint64_t seed = 500; worlds < 2; ++seed) {
    World w = random_world(seed);
    if (w.setup.method.trains_weights()) continue;
    SCOPED_TRACE(fmt::format("seed {}", seed));
    w.setup.model.layers.resize(16, w.setup.model.layers.front());
    w.space.layers = 16;
    w.space.batch = 2, w.space.accumulation = 2, w.space.recompute_all = true, w.space.token_chunks.clear();  // few candidates
    chooses_the_fastest_that_fits(w, seed, tally);
    ++worlds;
  }
  EXPECT_GT(tally.refused, 10);
  EXPECT_GT(tally.chosen, 10);
}

// What RAM does not hold a disk does; without it, or with one that is too small, nothing fits. Trained layers never lie there.
TEST(Planner, AModelThatRamDoesNotHoldComesFromDisk) {
  nn::ModelSpec m{.family = "llama", .vocab = 128256, .hidden = 8192, .max_positions = 131072, .dtype = "bfloat16"};
  m.layers.assign(80, {.heads = 64, .kv_heads = 8, .head_dim = 128, .ffn = 28672});
  const train::Setup setup{.model = m, .method = {.lora = nn::lora_on(16, 2), .format = quant::FormatId::nf4_dq}, .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 2048};
  const DeviceSpec spec = spec_of(*find_gpu("rtx4090"));
  Space space{.layers = 80, .can_stream = true, .can_window = true, .layers_alike = true, .packed = true, .can_host_embedding = true, .tokens_per_row = 2048, .vocab = m.vocab, .recompute_all = true};
  const auto search = [&](int64_t ram_gib, int64_t disk_gib) {
    space.has_disk = disk_gib > 0;
    return choose({(int64_t{12} << 30) - spec.overhead, ram_gib << 30, disk_gib << 30}, space, [&](const Plan& p) { return train::Trainer::rehearse(spec, setup, p); });
  };
  EXPECT_FALSE(search(16, 0).best.has_value());
  EXPECT_FALSE(search(16, 4).best.has_value());
  const Choice some = search(16, 100);
  ASSERT_TRUE(some.best.has_value());
  EXPECT_GT(some.best->plan.disk_layers, 0);
  EXPECT_LT(some.best->plan.disk_layers + some.best->plan.resident_layers, 80) << "RAM is used first";
  EXPECT_LE(some.best->outcome.ram(), int64_t{16} << 30);
  const Choice held = search(64, 100);
  ASSERT_TRUE(held.best.has_value());
  EXPECT_EQ(held.best->plan.disk_layers, 0);
  space.trained_layers = 80;
  for (const Plan& p : candidates(space)) ASSERT_EQ(p.disk_layers, 0);
}

// The plan is then run, in arenas of exactly the bytes it named: a phantom that is bounded refuses one byte more.
TEST(Planner, WhatIsChosenRunsInArenasOfItsPeaks) {
  for (uint64_t seed = 100; seed < 104; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    const World w = random_world(seed);
    const auto rehearse = [&](const Plan& p) { return train::Trainer::rehearse(small_cpu(), w.setup, p); };
    const Choice least = choose({0, 0}, w.space, rehearse);
    ASSERT_FALSE(least.best.has_value());
    const Choice choice = choose({least.least.outcome.peak[size_t(Tier::device)], INT64_MAX}, w.space, rehearse);
    ASSERT_TRUE(choice.best.has_value());
    const auto& [plan, outcome] = *choice.best;
    const auto device = cpu_device(small_cpu());
    comm::Rank rank(*device, {outcome.peak[size_t(Tier::device)], outcome.peak[size_t(Tier::pinned)], outcome.peak[size_t(Tier::host)]});
    train::Trainer trainer(rank, w.setup, plan);
    trainer.load(store::random_weights(trainer.model().weights().table(), seed, 0.1f).get());
    const auto cap = size_t(data::token_cap(plan.micro_batch, w.setup.tokens_per_row));
    const data::MicroBatch batch{std::vector<int32_t>(cap), std::vector<int32_t>(cap), std::vector<int32_t>(cap), std::vector<int32_t>(cap)};
    const auto r = trainer.step(std::vector<data::MicroBatch>(size_t(plan.accumulation), batch), 1e-3);
    EXPECT_TRUE(r.finite());
    trainer.evaluate({&batch, 1});
    trainer.save([](const store::ParamSpec&, Tensor) {});
  }
}

TEST(Planner, WhatTheUserFixedStaysFixed) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Draws draws{seed, 13};
    Space space{.layers = 1 + int(draws.below(9)), .batch = 1 + int64_t(draws.below(12)), .accumulation = 1 + int64_t(draws.below(4)),
                .can_stream = draws.below(2) == 1, .has_disk = draws.below(2) == 1, .can_window = draws.below(2) == 1, .packed = draws.below(2) == 1, .can_host_embedding = draws.below(2) == 1, .paged_optimizer = draws.below(2) == 1,
                .tokens_per_row = 1 + int64_t(draws.below(4000)), .vocab = 100};
    if (draws.below(2)) space.save = Save(draws.below(3));
    if (draws.below(2)) space.resident_layers = int(draws.below(uint64_t(space.layers + 1)));
    if (draws.below(3) == 0) space.window = 1 + int64_t(draws.below(12));
    space.recompute_all = !space.save && draws.below(3) == 0;
    space.keep_all = !space.save && !space.recompute_all && draws.below(2) == 0;
    std::map<std::string, int> seen;
    const auto plans = candidates(space);
    EXPECT_FALSE(plans.empty());
    for (const Plan& p : plans) {
      EXPECT_EQ(++seen[text(p)], 1) << "tried twice: " << text(p);
      EXPECT_EQ(space.batch % p.micro_batch, 0);
      EXPECT_EQ(p.micro_batch * p.accumulation, space.batch * space.accumulation);
      EXPECT_TRUE(p.paged_optimizer || !space.paged_optimizer);
      EXPECT_TRUE(space.can_host_embedding || !p.embedding_on_host);
      EXPECT_EQ(p.window, std::min(space.window.value_or(std::max<int64_t>(1, p.window)), space.can_window ? p.accumulation : 1));
      EXPECT_TRUE(space.packed || space.wide || !p.unpack_layer);
      EXPECT_TRUE(p.unpacked_layers == 0 || (space.packed && p.resident_layers == space.layers));
      EXPECT_EQ(int(p.save.size()), space.layers);
      EXPECT_GE(p.resident_layers, 0);
      EXPECT_LE(p.resident_layers + p.disk_layers, space.layers);
      EXPECT_TRUE(p.disk_layers == 0 || space.has_disk);
      if (space.resident_layers || !space.can_stream) {
        EXPECT_EQ(p.resident_layers, space.resident_layers.value_or(space.layers));
      }
      for (const auto& layer : p.save) {
        if (space.save || space.keep_all) {
          EXPECT_EQ(layer, nn::all(space.save.value_or(Save::keep)));
        }
        for (const auto n : {nn::q, nn::attended, nn::middle, nn::gate, nn::act})  // made again from the block's input, wherever that lies
          EXPECT_TRUE(!space.recompute_all || layer[n] == Save::recompute) << text(p);
      }
    }
  }
}

// 70B on a card of 8 GiB: the table of 2 GiB lies on the host, one head on the card.
TEST(Planner, A70BFitsACardOf8GiB) {
  nn::ModelSpec m{.family = "llama", .vocab = 128256, .hidden = 8192, .max_positions = 131072, .dtype = "bfloat16"};
  m.layers.assign(80, {.heads = 64, .kv_heads = 8, .head_dim = 128, .ffn = 28672});
  train::Setup setup{.model = m, .method = {.lora = nn::lora_on(16, 2), .format = quant::FormatId::nf4_dq}, .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 4096};
  const DeviceSpec spec = spec_of(*find_gpu("h200"));
  Space space{.layers = 80, .can_stream = true, .can_window = true, .tokens_per_row = 4096, .vocab = m.vocab, .recompute_all = true};
  const auto search = [&] {
    return choose({(int64_t{8} << 30) - spec.overhead, int64_t{64} << 30}, space, [&](const Plan& p) { return train::Trainer::rehearse(spec, setup, p); });
  };
  EXPECT_FALSE(search().best.has_value());
  space.can_host_embedding = true;
  const Choice choice = search();
  ASSERT_TRUE(choice.best.has_value());
  EXPECT_TRUE(choice.best->plan.embedding_on_host);
  EXPECT_NE(report(*choice.best, {int64_t{8} << 30, int64_t{64} << 30}, spec, 0).find("embedding in host memory"), std::string::npos);
}

TEST(Planner, ALadderGoesDown) {
  const auto& levels = ladder();
  ASSERT_GE(levels.size(), 2u);
  const auto kept = [](const Level& l) { return std::count(l.save.begin(), l.save.end(), Save::keep); };
  for (size_t i = 1; i < levels.size(); ++i)
    for (size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(levels[i].save == levels[j].save) << levels[i].name << ", " << levels[j].name;
      EXPECT_GT(kept(levels[0]), kept(levels[i])) << levels[i].name;
    }
  EXPECT_EQ(describe_saves({.save = {levels[0].save, levels[0].save, levels[2].save}}), fmt::format("2 of 3 layers: keep all; 1 of 3 layers: {}; spread evenly", levels[2].name));
  EXPECT_EQ(describe_saves({.save = {nn::all(Save::offload)}}), "all layers: offload everything");
}

// Times by hand: ops at their floor, copies beside them, waits where they are.
TEST(PredictedSeconds, ByHand) {
  DeviceSpec spec;
  spec.flops = 4e9, spec.vector_flops = 1e9, spec.memory_bandwidth = 1e9, spec.link_bandwidth = 1e8, spec.disk_bandwidth = 2.5e7, spec.op_seconds = 1;
  Ledger ledger;
  const auto seconds = [&] { return predicted_seconds(ledger.entries(), spec); };
  EXPECT_EQ(seconds(), 0);
  ledger.ran({.name = "product", .flops = 8e9, .bytes = 1, .matrix = true});
  EXPECT_DOUBLE_EQ(seconds(), 3);  // 1 + 2
  ledger.ran({.name = "plain", .flops = 1e9, .bytes = 3e9});
  EXPECT_DOUBLE_EQ(seconds(), 7);  // 1 + max(1 of flops at a quarter of the rate, 3 of bytes)
  ledger.copied(Tier::pinned, Tier::device, "ring", 5, int64_t(1e9));
  EXPECT_DOUBLE_EQ(seconds(), 17);  // from 7 on, 10 seconds on its lane
  ledger.ran({.name = "beside", .bytes = 4e9});
  EXPECT_DOUBLE_EQ(seconds(), 17);  // computes until 12, meanwhile
  ledger.copied(Tier::device, Tier::pinned, "ring", 4, int64_t(3e8));
  EXPECT_DOUBLE_EQ(seconds(), 17);  // the other lane: 12 to 15
  ledger.waited("ring", 5);
  ledger.ran({.name = "after", .bytes = 1e9});
  EXPECT_DOUBLE_EQ(seconds(), 19);  // 17 + 1 + 1
  // From disk, then over the link, one after the other; the next one is read meanwhile.
  ledger.copied(Tier::disk, Tier::pinned, "ring", 1, int64_t(1e8));
  ledger.copied(Tier::pinned, Tier::device, "ring", 1, int64_t(1e8));
  ledger.copied(Tier::disk, Tier::pinned, "ring", 2, int64_t(1e8));
  ledger.copied(Tier::pinned, Tier::device, "ring", 2, int64_t(1e8));
  EXPECT_DOUBLE_EQ(seconds(), 28);  // 19 + 4 + 4 + 1
}

}  // namespace
}  // namespace thimble::plan
