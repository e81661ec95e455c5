// Where bytes lie and which micro-batch goes first never changes a number: keep, recompute, offload, streamed, paged, windows and layers unpacked once give
// the same losses and weights, bit for bit.
#include "train/fixture.h"

namespace thimble::train {
namespace {

// Chunks of a layer's tokens: each way to keep, recompute, offload, stream gives the bits of the others, and all of them the whole layer's values
// to rounding, since the gradients of weights and adapters add up in another order.
void in_chunks_too(const Setup& setup, const Trace& whole) {
  const auto in_chunks_of = [&](plan::Plan p) { return run(setup, in_chunks(std::move(p), 16), 61, 4); };
  const Trace kept = in_chunks_of(plan_of(setup.model, nn::all(nn::Save::keep), 3, false));
  EXPECT_NEAR(kept.numbers[0], whole.numbers[0], 1e-6 * whole.numbers[0]);  // a loss is of rows alone, but libraries choose a product's way by its size
  EXPECT_TRUE(!(kept == whole) || setup.method.weights.dtype == DType::bf16);  // whose gradients, rounded to bf16, may hide the order
  double error = 0, squares = 0;
  for (size_t i = 0; i < kept.values.size(); ++i) error += std::pow(double(kept.values[i]) - whole.values[i], 2), squares += std::pow(double(whole.values[i]), 2);
  EXPECT_LT(error / squares, setup.method.weights.dtype == DType::f32 ? 1e-9 : 1e-7);  // a draw that falls the other way is a whole step of bf16
  for (const auto save : {nn::Save::recompute, nn::Save::offload}) EXPECT_TRUE(in_chunks_of(plan_of(setup.model, nn::all(save), 3, false)) == kept) << int(save);
  for (const auto& level : plan::ladder()) {
    EXPECT_TRUE(in_chunks_of(plan_of(setup.model, level.save, 3, false)) == kept) << level.name;
    const auto streamed = plan_of(setup.model, level.save, may_stay(setup.method, 0) ? 0 : 1, false);
    EXPECT_TRUE(in_chunks_of(in_windows(streamed, in_windows(setup.method, setup.model) ? 3 : 1, true)) == kept) << level.name << " streamed, unpacked once";
  }
}

void same_everywhere(const nn::Method& method, optim::OptimizerId optimizer, const nn::ModelSpec& model = tiny_model()) {
  const train::Setup setup{.model = model, .method = method, .optimizer = optimizer, .weight_decay = 0.01f, .tokens_per_row = 64};
  const Trace kept = run(setup, plan_of(setup.model, nn::all(nn::Save::keep), 3, false), 61, 4);
  for (const double x : kept.numbers) ASSERT_TRUE(std::isfinite(x));
  for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
    for (const int resident : {3, 1, 0})
      for (const bool paged : {false, true}) {
        if (!may_stay(method, resident)) continue;
        EXPECT_TRUE(run(setup, plan_of(setup.model, nn::all(save), resident, paged), 61, 4) == kept) << int(save) << " " << resident << " " << paged;
      }
  for (const int64_t window : {1, 2, 3})
    for (const bool unpack : {false, true})
      for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
        for (const int resident : {3, 0}) {
          if (!may_stay(method, resident) || (window > 1 && !in_windows(method, model))) continue;
          EXPECT_TRUE(run(setup, in_windows(plan_of(setup.model, nn::all(save), resident, false), window, unpack), 61, 4) == kept)
              << "window " << window << (unpack ? ", unpacked once, " : ", ") << int(save) << " " << resident;
        }
  for (const auto& level : plan::ladder()) {
    EXPECT_TRUE(run(setup, plan_of(setup.model, level.save, 3, false), 61, 4) == kept) << level.name;
    if (!may_stay(method, 1) || !in_windows(method, model)) continue;
    EXPECT_TRUE(run(setup, in_windows(plan_of(setup.model, level.save, 1, false), 2, true), 61, 4) == kept) << level.name << " in windows";
  }
  if (method.lora.dropout == 0 && quant::format(method.format).same_unpacked) in_chunks_too(setup, kept);  // masks and outliers are of whole micro-batches
}

TEST(SameNumbers, Full) { same_everywhere(full(), optim::OptimizerId::adamw); }
TEST(SameNumbers, FullOfAnUntiedModel) { same_everywhere(full(), optim::OptimizerId::adamw_8bit, tiny_model(3, false)); }
void same_without_clipping(const nn::Method& method, optim::OptimizerId optimizer) {
  const train::Setup setup{.model = tiny_model(3, false), .method = method, .optimizer = optimizer, .weight_decay = 0.01f, .max_grad_norm = 0, .tokens_per_row = 64};
  const Trace kept = run(setup, plan_of(setup.model, nn::all(nn::Save::keep), 3, false), 61, 4);
  for (const int64_t window : {1, 2, 3})
    for (const int resident : {1, 0})
      for (const bool paged : {false, true})
        EXPECT_TRUE(run(setup, in_windows(plan_of(setup.model, nn::all(nn::Save::offload), resident, paged), window, true), 61, 4) == kept) << window << " " << resident << paged;
}
TEST(SameNumbers, FullWithoutClippingUpdatesInBackward) { same_without_clipping(full(), optim::OptimizerId::adamw_8bit); }

// Weights in bf16: what a step draws to round them is of their place, and a streamed layer's gradients wait as the bf16 numbers that a resident one's are taken as.
TEST(SameNumbers, FullInBf16) { same_everywhere(full(DType::bf16), optim::OptimizerId::adamw_8bit, tiny_model(3, false)); }
TEST(SameNumbers, FullInBf16OfATiedOrnateModel) {
  auto model = ornate_model();
  model.tied_head = true;
  same_everywhere(full(DType::bf16), optim::OptimizerId::adamw, model);
}
TEST(SameNumbers, FullInBf16WithoutClipping) { same_without_clipping(full(DType::bf16), optim::OptimizerId::adamw_8bit); }
TEST(SameNumbers, InBf16ByEachOptimizer) {
  const auto by = [](const optim::Optimizer& o, const nn::Method& method) {
    const train::Setup setup{.model = tiny_model(3, false), .method = method, .optimizer = o.id, .weight_decay = 0.01f, .tokens_per_row = 64};
    const Trace kept = run(setup, plan_of(setup.model, nn::all(nn::Save::keep), 3, false), 61, 4);
    for (const auto& [resident, paged, window] : {std::tuple{0, true, 3}, {1, false, 1}, {0, false, 2}}) {
      if (!may_stay(method, resident)) continue;
      EXPECT_TRUE(run(setup, in_windows(plan_of(setup.model, nn::all(nn::Save::offload), resident, paged), window, true), 61, 4) == kept) << o.name << " " << resident << paged << window;
    }
    return kept;
  };
  for (const auto& o : optim::optimizers()) {
    EXPECT_FALSE(by(o, full(DType::bf16)) == by(o, full()));
    by(o, with_modules(DType::bf16)), by(o, freeze(quant::FormatId::nf4, DType::bf16));
  }
}
TEST(SameNumbers, Lora) { same_everywhere(lora(quant::FormatId::dense), optim::OptimizerId::adamw); }
TEST(SameNumbers, FullOfAnOrnateModel) { same_everywhere(full(), optim::OptimizerId::adamw, ornate_model()); }
TEST(SameNumbers, QloraOfAnOrnateModel) { same_everywhere(lora(quant::FormatId::nf4), optim::OptimizerId::adamw, ornate_model()); }
TEST(SameNumbers, LoraOfAnOrnateModelInWindows) {
  auto model = ornate_model();
  model.rope.kind = nn::RopeSpec::Kind::linear;  // the tables of the other follow the length of each pass
  same_everywhere(lora(quant::FormatId::dense), optim::OptimizerId::adamw, model);
}
TEST(SameNumbers, QloraEightBit) { same_everywhere(lora(quant::FormatId::nf4_dq), optim::OptimizerId::adamw_8bit); }

TEST(SameNumbers, LayersThatLieUnpacked) {
  const train::Setup setup{.model = tiny_model(), .method = lora(quant::FormatId::nf4_dq), .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 64};
  for (const int64_t tokens : {61, 8}) {
    const Trace packed = run(setup, plan_of(setup.model, nn::all(nn::Save::keep), 3, false), tokens, 4);
    for (const auto save : {nn::Save::keep, nn::Save::recompute})
      for (const int unpacked : {1, 3})
        for (const int64_t window : {1, 2}) {
          auto plan = in_windows(plan_of(setup.model, nn::all(save), 3, false), window, window > 1);
          plan.unpacked_layers = unpacked;
          EXPECT_TRUE(run(setup, plan, tokens, 4) == packed) << tokens << " tokens, " << unpacked << " unpacked, window " << window << ", " << int(save);
        }
  }
}
TEST(SameNumbers, LoraOnEightBits) { same_everywhere(lora(quant::FormatId::int8), optim::OptimizerId::adamw); }

TEST(SameNumbers, Dora) { same_everywhere(dora(quant::FormatId::nf4), optim::OptimizerId::adamw); }
TEST(SameNumbers, DropoutAndNeftune) { same_everywhere(noisy(quant::FormatId::nf4_dq), optim::OptimizerId::adamw); }
TEST(SameNumbers, DoraWithDropout) { same_everywhere(noisy(quant::FormatId::nf4, true), optim::OptimizerId::adamw); }
TEST(SameNumbers, LoraOfModulesOfSeveralMatrices) { same_everywhere(fused(lora(quant::FormatId::nf4_dq)), optim::OptimizerId::adamw_8bit); }
TEST(SameNumbers, DoraWithDropoutOfModulesOfSeveralMatrices) { same_everywhere(fused(noisy(quant::FormatId::nf4, true)), optim::OptimizerId::adamw); }
TEST(SameNumbers, ModulesTrainedWhole) { same_everywhere(with_modules(), optim::OptimizerId::adamw, tiny_model(3, false)); }
TEST(SameNumbers, FreezeOnAPackedBase) { same_everywhere(freeze(quant::FormatId::nf4), optim::OptimizerId::adamw_8bit); }

TEST(SameNumbers, MasksFollowTheSeed) {
  const train::Setup setup{.model = tiny_model(), .method = noisy(quant::FormatId::dense), .tokens_per_row = 64};
  auto other = setup;
  other.seed = 43;
  const auto plan = plan_of(setup.model, nn::all(nn::Save::keep), 3, false);
  const Trace a = run(setup, plan, 61, 2), b = run(other, plan, 61, 2);
  EXPECT_NE(a.numbers[0], b.numbers[0]);
  EXPECT_NE(a.values, b.values);
}

// Layers that come from disk, alone or beside others that come from pinned memory, of as many layers as make the rings turn.
TEST(SameNumbers, LayersOnDisk) {
  for (const auto& method : {lora(quant::FormatId::nf4_dq), lora(quant::FormatId::dense), lora(quant::FormatId::int8), noisy(quant::FormatId::nf4)}) {
    const train::Setup setup{.model = tiny_model(6, false), .method = method, .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 64};
    const Trace kept = run(setup, plan_of(setup.model, nn::all(nn::Save::keep), 6, false), 61, 4);
    for (const auto save : {nn::Save::keep, nn::Save::recompute, nn::Save::offload})
      for (const auto& [resident, disk] : {std::pair{0, 6}, {0, 3}, {0, 1}, {2, 4}, {3, 2}, {5, 1}})
        for (const int64_t window : {1, 3}) {
          if (method.format != quant::FormatId::nf4_dq && (disk != 3 || save == nn::Save::keep)) continue;  // of the other formats some
          EXPECT_TRUE(run(setup, on_disk(in_windows(plan_of(setup.model, nn::all(save), resident, resident == 0), window, window > 1), disk), 61, 4) == kept)
              << int(save) << ": " << resident << " resident, " << disk << " on disk, window " << window;
        }
  }
}

TEST(SameNumbers, FrozenLayersOnDiskBesideATrainedOne) {
  const train::Setup setup{.model = tiny_model(), .method = freeze(quant::FormatId::nf4), .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 64};
  const Trace kept = run(setup, plan_of(setup.model, nn::all(nn::Save::keep), 3, false), 61, 4);
  for (const int disk : {1, 2}) EXPECT_TRUE(run(setup, on_disk(plan_of(setup.model, nn::all(nn::Save::recompute), 1, false), disk), 61, 4) == kept) << disk;
}

// Slabs larger than what is copied at once in the calling thread, so that reading, the link and the computation do overlap.
TEST(SameNumbers, LargerLayersOnDisk) {
  nn::ModelSpec m{.family = "llama", .vocab = 101, .hidden = 192, .max_positions = 128, .dtype = "float32"};
  m.layers.assign(8, {.heads = 6, .kv_heads = 3, .head_dim = 32, .ffn = 400});
  const train::Setup setup{.model = m, .method = lora(quant::FormatId::nf4), .tokens_per_row = 32};
  ASSERT_GT(store::slab_bytes(nn::parameters(m, quant::FormatId::nf4).layers[0]), int64_t{64} << 10);
  const Trace kept = run(setup, plan_of(m, nn::all(nn::Save::keep), 8, false), 24, 6);
  for (const int disk : {8, 5, 3}) EXPECT_TRUE(run(setup, on_disk(plan_of(m, nn::all(nn::Save::recompute), 0, false), disk), 24, 6) == kept) << disk;
}

TEST(SameNumbers, ADiskThatFailsEndsTheStepWithOneError) {
  const train::Setup setup{.model = tiny_model(6), .method = lora(quant::FormatId::nf4), .tokens_per_row = 37};
  const FolderOnDisk folder;
  DeviceSpec spec = f32_cpu();
  spec.disk = folder.path;
  const auto plan = on_disk(plan_of(setup.model, nn::all(nn::Save::keep), 0, false), 6);
  const auto outcome = Trainer::rehearse(spec, setup, plan);
  const auto device = device_under_test(spec);
  comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2], outcome.peak[3]});
  Trainer trainer(rank, setup, plan);
  trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
  trainer.step(three_batches(setup.model, 37, 1), 1e-3);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path));
  folder.cut_short(100);
  try {
    trainer.step(three_batches(setup.model, 37, 2), 1e-3);
    ADD_FAILURE() << "a step went on without its layers";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::bad_input) << e.what();
    EXPECT_EQ(e.problem().where, folder.path.string());
  }
}

TEST(SameNumbers, AnEmbeddingGatheredFromTheHost) {
  const train::Setup setup{.model = tiny_model(3, false), .method = lora(quant::FormatId::nf4_dq), .optimizer = optim::OptimizerId::adamw_8bit, .tokens_per_row = 64};
  const Trace kept = run(setup, plan_of(setup.model, nn::all(nn::Save::keep), 3, false), 61, 4);
  for (const auto save : {nn::Save::keep, nn::Save::offload})
    for (const int resident : {3, 0}) {
      auto plan = plan_of(setup.model, nn::all(save), resident, resident == 0);
      plan.embedding_on_host = true;
      EXPECT_TRUE(run(setup, plan, 61, 4) == kept) << int(save) << " " << resident;
    }
}

TEST(SameNumbers, AccumulationEqualsTheBigBatchToRounding) {
  const train::Setup setup{.model = tiny_model(), .method = full(), .tokens_per_row = 96};
  const auto one = random_batch(setup.model, 40, 1), two = random_batch(setup.model, 56, 2);
  auto both = one;
  for (size_t t = 0; t < two.ids.size(); ++t) {
    both.ids.push_back(two.ids[t]);
    both.targets.push_back(two.targets[t]);
    both.positions.push_back(two.positions[t]);
    both.start.push_back(two.start[t] + 40);
  }
  const auto loss = [&](const std::vector<data::MicroBatch>& window) {
    const auto device = device_under_test(f32_cpu());
    comm::Rank rank(*device, {int64_t{64} << 20, int64_t{8} << 20, 0});
    Trainer trainer(rank, setup, plan_of(setup.model, nn::all(nn::Save::keep), 3, false));
    trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
    return trainer.step(window, 1e-3);
  };
  const auto apart = loss({one, two}), together = loss({both});
  EXPECT_NEAR(apart.loss, together.loss, 1e-6 * together.loss);
  EXPECT_NEAR(apart.grad_norm, together.grad_norm, 1e-5 * together.grad_norm);
}

}  // namespace
}  // namespace thimble::train
