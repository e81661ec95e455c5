// Documents packed in one row have the loss that each has alone.
#include "fixture.h"

namespace thimble::train {
namespace {

// A document of `length` tokens, of which all but some targets are learned; targets off where `silent`.
void add_document(data::MicroBatch& b, const nn::ModelSpec& m, int64_t length, uint64_t seed, bool silent) {
  Draws draws{seed, 3};
  const auto start = int32_t(b.ids.size());
  for (int64_t t = 0; t < length; ++t) {
    const auto id = int32_t(draws.below(uint64_t(m.vocab))), target = int32_t(draws.below(uint64_t(m.vocab)));
    const bool learned = draws.below(4) > 0 && !silent;
    b.ids.push_back(id);
    b.targets.push_back(learned ? target : -1);
    b.positions.push_back(int32_t(t));
    b.start.push_back(start);
  }
}

TEST(Packed, EachDocumentHasTheLossThatItHasAlone) {
  const std::vector<int64_t> lengths{7, 1, 16, 9, 3, 12};
  for (const auto& spec : {tiny_model(), tiny_model(2, false)}) {
    const train::Setup setup{.model = spec, .method = lora(quant::FormatId::dense), .tokens_per_row = 48};
    const plan::Plan plan = plan_of(spec, nn::all(nn::Save::keep), int(spec.layers.size()), false);
    const auto outcome = Trainer::rehearse(f32_cpu(), setup, plan);
    const auto device = device_under_test(f32_cpu());
    comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
    Trainer trainer(rank, setup, plan);
    trainer.load(store::random_weights(trainer.model().weights().table(), 5, 0.2f).get());
    const auto loss = [&](const data::MicroBatch& b) { return trainer.evaluate(std::vector{b}); };
    double sum = 0;
    int64_t targets = 0;
    for (size_t d = 0; d < lengths.size(); ++d) {
      data::MicroBatch alone, beside;
      add_document(alone, spec, lengths[d], d, false);
      for (size_t i = 0; i < lengths.size(); ++i) add_document(beside, spec, lengths[i], i, i != d);
      const auto a = loss(alone), b = loss(beside);
      ASSERT_EQ(a.targets, b.targets);
      if (a.targets > 0) {
        EXPECT_NEAR(a.loss, b.loss, 1e-5 * a.loss) << "document " << d;
      }
      sum += a.loss * double(a.targets);
      targets += a.targets;
    }
    data::MicroBatch packed;
    for (size_t i = 0; i < lengths.size(); ++i) add_document(packed, spec, lengths[i], i, false);
    const auto all = loss(packed);
    ASSERT_EQ(all.targets, targets);
    EXPECT_NEAR(all.loss, sum / double(targets), 1e-5 * all.loss);
  }
}

}  // namespace
}  // namespace thimble::train
