// The loss of a text is that of its logits in float64, however it is cut into chunks, in arenas of exactly the planned bytes.
#include <gtest/gtest.h>

#include <cmath>

#include "base/philox.h"
#include "serve/engine.h"
#include "store/weight_source.h"

namespace thimble::serve {
namespace {

TEST(Score, IsThatOfTheLogitsWhateverTheChunks) {
  nn::ModelSpec m{.family = "llama", .vocab = 101, .hidden = 36, .max_positions = 128, .tied_head = true, .dtype = "float32"};
  m.layers.assign(2, {.heads = 6, .kv_heads = 3, .head_dim = 6, .ffn = 52});
  std::vector<int32_t> ids, targets;
  for (uint64_t t = 0; t < 29; ++t) {
    ids.push_back(int32_t(philox(1, 2, t)[0] % 101));
    targets.push_back(t % 3 ? int32_t(philox(1, 3, t)[0] % 101) : -1);
  }
  Score expected;
  for (const int64_t chunk : {29, 8, 1, 64}) {
    const EngineShape shape{.model = m, .context = chunk == 64 ? 64 : 29, .prefill_chunk = chunk};
    DeviceSpec spec;
    const auto outcome = Engine::rehearse(spec, shape);
    const auto device = cpu_device(spec);
    comm::Rank rank(*device, {outcome.peak[0], outcome.peak[1], outcome.peak[2]});
    Engine engine(rank, shape);
    engine.load(store::random_weights(engine.model().weights().table(), 5, 0.3f).get());
    if (chunk == 29) {
      const Tensor logits = engine.logits(ids);
      for (size_t t = 0; t < ids.size(); ++t) {
        if (targets[t] < 0) continue;
        const float* row = logits.get<float>() + t * 101;
        double sum = 0;
        for (int v = 0; v < 101; ++v) sum += std::exp(double(row[v]));
        expected.loss += std::log(sum) - double(row[targets[t]]);
        expected.correct += std::max_element(row, row + 101) - row == targets[t];
        ++expected.targets;
      }
    }
    const Score s = engine.score(ids, targets);
    EXPECT_EQ(s.targets, expected.targets);
    EXPECT_EQ(s.correct, expected.correct);
    EXPECT_NEAR(s.loss, expected.loss, 1e-5 * expected.loss) << chunk;
    EXPECT_EQ(engine.score({}, {}).targets, 0);
    EXPECT_EQ(engine.score(ids, targets).loss, s.loss);  // nothing of the first is left
    std::vector<int32_t> longer(size_t(shape.context) + 1);
    EXPECT_THROW(engine.score(longer, longer), Error);
  }
}

}  // namespace
}  // namespace thimble::serve
