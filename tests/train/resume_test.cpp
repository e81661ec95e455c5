// A run that is taken down and set up again between two steps goes on with the same bits, wherever its tensors lie before and after.
#include <map>

#include "store/adapter_files.h"
#include "train/fixture.h"

namespace thimble::train {
namespace {

// All that a checkpoint holds of tensors, byte by byte.
struct Kept {
  std::map<std::string, std::vector<std::byte>> values, states;
  LossScale loss_scale;
  bool operator==(const Kept&) const = default;
  static void append(std::vector<std::byte>& to, Tensor piece) {
    to.insert(to.end(), static_cast<std::byte*>(piece.data), static_cast<std::byte*>(piece.data) + piece.bytes());
  }
  static void take(const std::vector<std::byte>& from, int64_t first, Tensor piece) {
    ASSERT_LE((first + piece.count()) * size_of(piece.dtype), int64_t(from.size()));
    std::memcpy(piece.data, from.data() + first * size_of(piece.dtype), size_t(piece.bytes()));
  }
};

class Run {
 public:
  Run(const Setup& setup, const plan::Plan& plan, DType compute = DType::f32)
      : setup_(setup), device_(device_under_test(spec_of(plan, compute))), rank_(*device_, capacity(setup, plan, compute)), trainer_(rank_, setup, plan) {
    trainer_.load(store::random_weights(trainer_.model().weights().table(), 5, 0.2f).get());
  }
  void step(int64_t s, std::vector<double>& numbers) {
    const std::vector<data::MicroBatch> window{random_batch(setup_.model, 61, uint64_t(s)),
                                               random_batch(setup_.model, 56, uint64_t(s) + 100)};
    const auto r = trainer_.step(window, 1e-2);
    numbers.insert(numbers.end(), {r.loss, r.grad_norm});
  }
  Kept kept() {
    Kept k;
    trainer_.save([&](const store::ParamSpec& p, Tensor piece) { Kept::append(k.values[store::name_in_file(p)], piece); });
    const auto states = trainer_.states();
    size_t i = 0;
    trainer_.save_states([&](Tensor piece) {
      Kept::append(k.states[states.at(i).name()], piece);
      if (int64_t(k.states[states[i].name()].size()) == states[i].home.bytes()) ++i;
    });
    EXPECT_EQ(i, states.size());
    k.loss_scale = trainer_.loss_scale();
    return k;
  }
  void restore(int64_t steps, const Kept& k) {
    trainer_.restore(
        steps, k.loss_scale,
        [&](const store::ParamSpec& p, int64_t first, Tensor piece) { Kept::take(k.values.at(store::name_in_file(p)), first, piece); },
        [&](const std::string& name, int64_t first, Tensor piece) { Kept::take(k.states.at(name), first, piece); });
  }

 private:
  static DeviceSpec spec_of(const plan::Plan& plan, DType compute) { return plan.disk_layers ? f32_cpu_with_disk() : f32_cpu(compute); }
  static comm::Capacity capacity(const Setup& setup, const plan::Plan& plan, DType compute) {
    const auto o = Trainer::rehearse(spec_of(plan, compute), setup, plan);
    return {o.peak[0], o.peak[1], o.peak[2], o.peak[3]};
  }
  Setup setup_;
  std::unique_ptr<Device> device_;
  comm::Rank rank_;
  Trainer trainer_;
};

// resident, on_disk: layers that are, before and after.
void resumes(const nn::Method& method, optim::OptimizerId optimizer, nn::ModelSpec model, std::array<int, 2> resident = {99, 99}, float clip = 1, std::array<int, 2> on_disk = {},
             DType compute = DType::f32) {
  const Setup setup{.model = model, .method = method, .optimizer = optimizer, .weight_decay = 0.01f, .max_grad_norm = clip, .tokens_per_row = 64};
  for (const bool paged_before : {false, true})
    for (const bool paged_after : {false, true}) {
      const auto plan = [&](bool paged, nn::Save save) {
        const size_t when = save == nn::Save::keep ? 0 : 1;
        return train::on_disk(plan_of(setup.model, nn::all(save), std::min(int(model.layers.size()), resident[when]), paged), on_disk[when]);
      };
      std::vector<double> whole, parted;
      Run through(setup, plan(paged_before, nn::Save::keep), compute);
      for (int64_t s = 0; s < 6; ++s) through.step(s, whole);
      std::optional<Run> first(std::in_place, setup, plan(paged_before, nn::Save::keep), compute);
      for (int64_t s = 0; s < 3; ++s) first->step(s, parted);
      const Kept kept = first->kept();
      first.reset();
      Run second(setup, plan(paged_after, nn::Save::recompute), compute);
      std::vector<double> lost;
      second.step(40, lost);  // what it did before is forgotten
      second.restore(3, kept);
      for (int64_t s = 3; s < 6; ++s) second.step(s, parted);
      EXPECT_EQ(parted, whole) << paged_before << paged_after;
      EXPECT_TRUE(through.kept() == second.kept()) << paged_before << paged_after;
    }
}

TEST(Resume, Full) { resumes(full(), optim::OptimizerId::adamw, tiny_model()); }
TEST(Resume, FullWhereLayersAreStreamed) {
  for (const float clip : {1.0f, 0.0f})
    for (const auto& resident : {std::array{1, 0}, {0, 99}, {99, 1}}) resumes(full(), optim::OptimizerId::adamw, tiny_model(), resident, clip);
}
TEST(Resume, FullInBf16) {
  for (const float clip : {1.0f, 0.0f})
    for (const auto& resident : {std::array{1, 0}, {0, 99}}) resumes(full(DType::bf16), optim::OptimizerId::adamw_8bit, tiny_model(3, false), resident, clip);
  resumes(with_modules(DType::bf16), optim::OptimizerId::adafactor, tiny_model(3, false));
}
TEST(Resume, InF16WithItsLossScale) {
  for (const auto& resident : {std::array{99, 99}, {0, 99}}) resumes(full(), optim::OptimizerId::adamw, tiny_model(), resident, 0, {}, DType::f16);
  resumes(lora(quant::FormatId::nf4), optim::OptimizerId::adamw_8bit, tiny_model(), {99, 99}, 1, {}, DType::f16);
}
TEST(Resume, Lora) { resumes(lora(quant::FormatId::dense), optim::OptimizerId::adamw, tiny_model()); }
TEST(Resume, EightBitStates) {
  nn::ModelSpec m = tiny_model(2);  // matrices of 4096 elements and more, whose states are packed
  m.hidden = 72, m.layers.assign(2, {.heads = 6, .kv_heads = 3, .head_dim = 12, .ffn = 130});
  resumes(full(), optim::OptimizerId::adamw_8bit, m);
  resumes(lora(quant::FormatId::nf4_dq), optim::OptimizerId::adamw_8bit, tiny_model());
}

TEST(Resume, WhereLayersAreOnDisk) {
  resumes(lora(quant::FormatId::nf4_dq), optim::OptimizerId::adamw, tiny_model(), {0, 1}, 1, {3, 1});
  resumes(lora(quant::FormatId::nf4_dq), optim::OptimizerId::adamw, tiny_model(), {3, 0}, 1, {0, 2});
}
TEST(Resume, WhatStepsDraw) { resumes(noisy(quant::FormatId::dense), optim::OptimizerId::lion, tiny_model()); }
TEST(Resume, DoraByMomentum) { resumes(dora(quant::FormatId::nf4), optim::OptimizerId::sgd_momentum, tiny_model()); }
TEST(Resume, ModulesByAdafactor) { resumes(with_modules(), optim::OptimizerId::adafactor, tiny_model(3, false)); }

TEST(Resume, TensorsLargerThanTheStagingArePieces) {
  nn::ModelSpec m = tiny_model(1);
  m.vocab = 9000;  // 1.3 MB of embedding
  resumes(full(), optim::OptimizerId::adamw, m);
}

}  // namespace
}  // namespace thimble::train
