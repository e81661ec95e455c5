// The one law: the ledger of a phantom's step equals the real one's, entry by entry; arenas of the planned bytes suffice, and less does not.
#include "golden_folder.h"
#include "train/fixture.h"

namespace thimble::train {
namespace {

struct Case {
  const char* name;
  nn::Method method;
  nn::Save save;
  int resident;  // of 3
  optim::OptimizerId optimizer;
  bool paged;
  int64_t tokens;
  int64_t window = 1;  // of 3 micro-batches
  bool unpack_layer = false;
  bool embedding_on_host = false;
  int unpacked = 0;  // layers
  int64_t token_chunk = 0;
  float max_grad_norm = 1;
  bool untied = false;
  int on_disk = 0;  // of those that are not resident
};

std::vector<Case> cases() {
  std::vector<Case> all;
  struct Named { const char* name; nn::Method method; };
  const Named methods[] = {{"full", full()}, {"lora", lora(quant::FormatId::dense)}, {"qlora", lora(quant::FormatId::nf4)}, {"qlora_dq", lora(quant::FormatId::nf4_dq)}, {"int8", lora(quant::FormatId::int8)}};
  for (const auto& m : methods)
    for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
      for (const int resident : {3, 1, 0})
        for (const auto& [optimizer, paged] : {std::pair{optim::OptimizerId::adamw, false}, {optim::OptimizerId::adamw_8bit, false}, {optim::OptimizerId::adamw_8bit, true}})
          for (const int64_t tokens : {64, 37}) {
            if (m.method.trains_weights() && resident != 3) continue;  // below
            all.push_back({m.name, m.method, save, resident, optimizer, paged, tokens});
            if (!m.method.trains_weights() && optimizer == optim::OptimizerId::adamw_8bit)
              all.push_back({.name = m.name, .method = m.method, .save = save, .resident = resident, .optimizer = optimizer, .paged = paged, .tokens = tokens, .embedding_on_host = true});
          }
  for (const auto& m : methods)
    for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
      for (const int resident : {3, 1, 0})
        for (const auto& [window, unpack] : {std::pair{int64_t{1}, true}, {2, false}, {2, true}, {3, true}})
          if (!m.method.trains_weights()) all.push_back({m.name, m.method, save, resident, optim::OptimizerId::adamw, false, 37, window, unpack});
  for (const auto& m : methods)
    for (const auto save : {nn::Save::keep, nn::Save::recompute})
      for (const auto& [window, unpack] : {std::pair{int64_t{1}, false}, {2, true}})
        for (const int unpacked : {3, 1})
          if (m.method.format != quant::FormatId::dense && quant::format(m.method.format).same_unpacked)
            all.push_back({.name = m.name, .method = m.method, .save = save, .resident = 3, .optimizer = optim::OptimizerId::adamw, .paged = false, .tokens = 64, .window = window,
                           .unpack_layer = unpack, .unpacked = unpacked});
  for (const auto& m : methods)
    for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
      for (const int resident : {3, 0})
        for (const auto& [window, unpack, tokens] : {std::tuple{int64_t{1}, true, 37}, {2, false, 37}, {1, false, 64}})
          if (!m.method.trains_weights() || (resident == 3 && window == 1 && !unpack))
            all.push_back({.name = m.name, .method = m.method, .save = save, .resident = resident, .optimizer = optim::OptimizerId::adamw, .paged = false, .tokens = tokens, .window = window,
                           .unpack_layer = unpack, .token_chunk = 16});
  for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
    for (const int resident : {1, 0})
      for (const auto& [window, unpack, clip] : {std::tuple{int64_t{1}, false, 1.0f}, {1, true, 0.0f}, {2, true, 1.0f}, {2, false, 0.0f}, {3, true, 1.0f}, {3, true, 0.0f}})
        all.push_back({.name = "full streamed", .method = full(), .save = save, .resident = resident, .optimizer = resident ? optim::OptimizerId::adamw : optim::OptimizerId::adamw_8bit,
                       .paged = resident == 0, .tokens = 37, .window = window, .unpack_layer = unpack, .max_grad_norm = clip, .untied = true});
  for (const auto save : {nn::Save::keep, nn::Save::offload})
    for (const int resident : {3, 1, 0})
      for (const auto& [window, clip] : {std::pair{int64_t{1}, 1.0f}, {2, 1.0f}, {3, 1.0f}, {3, 0.0f}})
        all.push_back({.name = "full in bf16", .method = full(DType::bf16), .save = save, .resident = resident, .optimizer = resident ? optim::OptimizerId::adafactor : optim::OptimizerId::adamw_8bit,
                       .paged = resident < 3, .tokens = 37, .window = window, .unpack_layer = window > 1, .max_grad_norm = clip, .untied = true});
  const Named more[] = {{"dora", dora(quant::FormatId::nf4_dq)}, {"dropout and neftune", noisy(quant::FormatId::nf4)}, {"dora with dropout", noisy(quant::FormatId::nf4, true)}, {"fused", fused(noisy(quant::FormatId::nf4, true))}, {"modules", with_modules()}, {"freeze", freeze(quant::FormatId::nf4)}, {"freeze in bf16", freeze(quant::FormatId::nf4, DType::bf16)}, {"modules in bf16", with_modules(DType::bf16)}};
  for (const auto& m : more)
    for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
      for (const int resident : {3, 1, 0})
        for (const auto& [window, unpack] : {std::pair{int64_t{1}, false}, {2, true}})
          if (may_stay(m.method, resident) && (window == 1 || !m.method.weights.embedding))
            all.push_back({m.name, m.method, save, resident, optim::OptimizerId::adamw_8bit, resident == 1, 37, window, unpack});
  for (const auto& m : methods)
    for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
      for (const auto& [resident, disk] : {std::pair{0, 3}, {0, 1}, {1, 1}})
        for (const auto& [window, unpack, optimizer, paged, tokens] : {std::tuple{int64_t{1}, false, optim::OptimizerId::adamw, false, int64_t{37}},
                                                                     {2, true, optim::OptimizerId::adamw_8bit, true, 64}})
          if (!m.method.trains_weights())
            all.push_back({.name = m.name, .method = m.method, .save = save, .resident = resident, .optimizer = optimizer, .paged = paged, .tokens = tokens, .window = window,
                           .unpack_layer = unpack, .on_disk = disk});
  return all;
}

// The same calls on any device.
void rehearse_all(comm::Rank& rank, const Setup& setup, const plan::Plan& plan, int64_t tokens) {
  Trainer trainer(rank, setup, plan);
  const auto source = store::random_weights(trainer.model().weights().table(), 5, 0.2f);
  trainer.load(source.get());
  const auto batches = three_batches(setup.model, tokens, 1);
  for (int i = 0; i < 2; ++i) trainer.step(batches, 1e-3);
  trainer.evaluate(batches);
  trainer.save([](const store::ParamSpec&, Tensor) {});
  trainer.save_states([](Tensor) {});
  trainer.restore(2, {}, [](const store::ParamSpec&, int64_t, Tensor) {}, [](const std::string&, int64_t, Tensor) {});
  trainer.step(batches, 1e-3);
}

int ledgers_are_equal_and_arenas_exact(const nn::ModelSpec& model, const std::vector<Case>& all) {
  int count = 0;
  for (const Case& c : all) {
    SCOPED_TRACE(fmt::format("{} save {} resident {} optimizer {} paged {} tokens {} window {} unpack {} embedding on host {} unpacked {} chunk {} clipped {} on disk {}", c.name, int(c.save), c.resident, int(c.optimizer),
                             c.paged, c.tokens, c.window, c.unpack_layer, c.embedding_on_host, c.unpacked, c.token_chunk, c.max_grad_norm, c.on_disk));
    const train::Setup setup{.model = c.embedding_on_host || (c.untied && model == tiny_model()) ? tiny_model(3, false) : model, .method = c.method, .optimizer = c.optimizer,
                             .max_grad_norm = c.max_grad_norm, .tokens_per_row = c.tokens};
    auto plan = in_windows(plan_of(setup.model, nn::all(c.save), c.resident, c.paged), c.window, c.unpack_layer);
    plan.embedding_on_host = c.embedding_on_host;
    plan.unpacked_layers = c.unpacked;
    plan.disk_layers = c.on_disk;
    plan.token_chunk = c.token_chunk;
    const DeviceSpec spec = c.on_disk ? f32_cpu_with_disk() : f32_cpu();
    const auto phantom = phantom_device(spec);
    comm::Rank dry(*phantom, comm::boundless);
    rehearse_all(dry, setup, plan, c.tokens);
    const comm::Capacity exact{dry.ledger.peak(Tier::device), dry.ledger.peak(Tier::pinned), dry.ledger.peak(Tier::host), dry.ledger.peak(Tier::disk)};
    EXPECT_EQ(exact.disk > 0, c.on_disk > 0);
    const auto cpu = device_under_test(spec);
    {
      comm::Rank real(*cpu, exact);
      EXPECT_NO_THROW(rehearse_all(real, setup, plan, c.tokens));
      EXPECT_EQ(difference(dry.ledger, real.ledger), "");
    }
    for (int64_t comm::Capacity::*tier : {&comm::Capacity::device, &comm::Capacity::pinned, &comm::Capacity::disk}) {
      auto less = exact;
      if (exact.*tier == 0) continue;
      less.*tier -= alignment;
      comm::Rank tight(*cpu, less);
      try {
        rehearse_all(tight, setup, plan, c.tokens);
        ADD_FAILURE() << "one unit less sufficed";
      } catch (const Error& e) {
        EXPECT_EQ(e.fault(), Fault::does_not_fit);
        EXPECT_NE(e.problem().found.find("the largest: "), std::string::npos) << e.what();
      }
    }
    ++count;
  }
  return count;
}

TEST(PlanEqualsRun, LedgersAreEqualAndArenasExact) { EXPECT_EQ(ledgers_are_equal_and_arenas_exact(tiny_model(), cases()), 18 + 4 * (54 + 36 + 36) + 2 * 8 + 3 + 4 * 18 + 36 + 24 + 18 + 18 + 18 + 18 + 9 + 9 + 12 + 12 + 4 * 18); }

TEST(PlanEqualsRun, OfAModelWithAllThatFamiliesHave) {
  std::vector<Case> some = cases();
  std::erase_if(some, [](const Case& c) { return c.tokens != 37 || c.resident == 1 || (c.optimizer != optim::OptimizerId::adamw && !c.untied) || c.window > 1; });
  EXPECT_EQ(ledgers_are_equal_and_arenas_exact(ornate_model(), some), 3 + 4 * (6 + 6 + 6 + 6) + 6 + 4);
}

TEST(PlanEqualsRun, OfEachFamily) {
  const auto folders = golden_folder() / "families";
  for (const auto& entry : fs::directory_iterator(folders)) {
    SCOPED_TRACE(entry.path().filename().string());
    std::vector<Case> some;
    for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
      for (const auto& [name, method, resident] : {std::tuple{"full", full(), 2}, {"qlora", lora(quant::FormatId::nf4_dq), 0}})
        some.push_back({name, method, save, resident, optim::OptimizerId::adamw_8bit, false, 37});
    EXPECT_EQ(ledgers_are_equal_and_arenas_exact(models::read_model(entry.path()), some), 6);
  }
}

// Examples of lengths 1 to `cutoff`, most of them short: rows of several documents where they are packed, ragged ones where not.
data::Examples ragged_examples(const nn::ModelSpec& m, int64_t cutoff, int64_t count) {
  std::vector<uint32_t> tokens;
  std::vector<int64_t> ends;
  Draws draws{17, uint64_t(cutoff), 0};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t length = i == 0 ? cutoff : 1 + int64_t(draws.below(uint64_t(i % 3 ? cutoff / 3 : cutoff)));
    for (int64_t t = 0; t < length; ++t) {
      const auto id = uint32_t(draws.below(uint64_t(m.vocab)));
      tokens.push_back(id | (draws.below(4) ? data::learned_bit : 0));
    }
    ends.push_back(int64_t(tokens.size()));
  }
  return data::Examples(std::make_shared<data::TokenPool>(std::move(tokens), std::move(ends)));
}

// An epoch of real batches in arenas of what the rehearsal at the caps took, and the same epoch on a phantom, entry by entry.
TEST(PlanEqualsRun, PackedAndRaggedRowsStayInsideTheRehearsal) {
  struct Named { const char* name; nn::Method method; optim::OptimizerId optimizer; int resident; bool paged; };
  const Named methods[] = {{"full", full(), optim::OptimizerId::adamw, 3, false}, {"lora", lora(quant::FormatId::dense), optim::OptimizerId::adamw, 1, false},
                           {"qlora_dq", lora(quant::FormatId::nf4_dq), optim::OptimizerId::adamw_8bit, 0, true}};
  for (const auto& m : methods)
    for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
      for (const bool packing : {true, false})
        for (const int64_t cutoff : {37, 48}) {
          SCOPED_TRACE(fmt::format("{} save {} packing {} cutoff {}", m.name, int(save), packing, cutoff));
          const train::Setup setup{.model = tiny_model(), .method = m.method, .optimizer = m.optimizer, .tokens_per_row = cutoff};
          auto plan = in_windows(plan_of(setup.model, nn::all(save), m.resident, m.paged), m.method.trains_weights() ? 1 : 2, cutoff == 48);
          plan.micro_batch = 2;
          const data::Batches batches(ragged_examples(setup.model, cutoff, 14), {.rows = plan.micro_batch, .cutoff = cutoff, .packing = packing});
          std::vector<data::MicroBatch> epoch;
          int64_t documents = 0, fewest = batches.token_cap(), most = 0;
          for (int64_t i = 0; i < batches.micro_batches_per_epoch(); ++i) {
            epoch.push_back(batches.at(0, i));
            const auto n = int64_t(epoch.back().ids.size());
            fewest = std::min(fewest, n), most = std::max(most, n);
            for (int64_t t = 0; t < n; ++t) documents += epoch.back().start[size_t(t)] == t;
          }
          EXPECT_EQ(fewest == most, packing);  // packed: always the cap; ragged: from batch to batch another number
          EXPECT_GT(documents, 14);            // 14 and the padding
          const auto calls = [&](comm::Rank& rank) {
            Trainer trainer(rank, setup, plan);
            trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
            for (size_t i = 0; i < epoch.size(); i += 2) trainer.step(std::span(epoch).subspan(i, std::min<size_t>(2, epoch.size() - i)), 1e-3);
            trainer.evaluate(epoch);
            trainer.save([](const store::ParamSpec&, Tensor) {});
          };
          const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
          const auto phantom = phantom_device(f32_cpu()), cpu = device_under_test(f32_cpu());
          comm::Rank dry(*phantom, comm::boundless), real(*cpu, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
          calls(dry);
          ASSERT_NO_THROW(calls(real));
          ASSERT_EQ(difference(dry.ledger, real.ledger), "");
          if (packing) {
            EXPECT_EQ(real.ledger.peak(Tier::device), outcome.peak[0]);  // at the cap, so exactly what was planned
          }
        }
}

TEST(PlanEqualsRun, AStepOf70BIsPlannedFromItsConfig) {
  nn::ModelSpec m{.family = "llama", .vocab = 128256, .hidden = 8192, .max_positions = 131072, .dtype = "bfloat16"};
  m.layers.assign(80, {.heads = 64, .kv_heads = 8, .head_dim = 128, .ffn = 28672});
  const auto table = nn::parameters(m, quant::FormatId::nf4_dq);
  int64_t matrices = 0;
  for (const auto& layer : table.layers)
    for (const auto& p : layer)
      if (p.role == store::Role::linear) matrices += quant::bytes_of(p.format, p.shape, p.dtype);
  EXPECT_NEAR(double(matrices) / double(int64_t{1} << 30), 32.89, 0.01);
  const train::Setup setup{.model = m, .method = lora(quant::FormatId::nf4_dq), .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 4096};
  const auto phantom = phantom_device(f32_cpu());
  comm::Rank rank(*phantom, comm::boundless);
  Trainer trainer(rank, setup, plan_of(m, nn::all(nn::Save::recompute), 10, true));
  trainer.load(nullptr);
  const std::vector<int32_t> zeros(4096);
  trainer.step(std::vector<data::MicroBatch>{{zeros, zeros, zeros, zeros}}, 1e-4);
  EXPECT_GT(rank.ledger.entries().size(), 10000u);
}

}  // namespace
}  // namespace thimble::train
