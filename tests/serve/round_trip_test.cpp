// An adapter that we train and write is one that we read, with the same logits; the files stay in the build folder, where
// tests/golden/check_adapter.py shows that PEFT reads them too (its output: tests/golden/adapters_check.txt).
#include "base/philox.h"
#include "nn/fixture.h"
#include "serve/engine.h"

namespace thimble::serve {
namespace {

TEST(AdapterRoundTrip, WrittenReadAndAskedAgain) {
  const auto folder = nn::shared_data / "stories260K";
  if (!fs::exists(folder)) GTEST_SKIP() << "skipped: no ../shared/data";
  const fs::path out = fs::path(THIMBLE_BINARY_DIR) / "adapter_of_ours";
  fs::remove_all(out);
  const store::AdapterConfig config{.rank = 4, .alpha = 8, .targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, .base_model = "stories260K"};
  const nn::Method method{.lora = nn::lora_on(4, 2)};
  const auto device = device_under_test(nn::f32_spec());
  const EngineShape shape{.model = models::read_model(folder), .method = method, .context = 64, .prefill_chunk = 32};
  const std::vector<int32_t> ids{1, 403, 407, 261, 378, 385, 328, 432};
  const auto value = [](const store::ParamSpec& p, int64_t i) { return 0.05f * normal_at(11, uint64_t(p.layer) * 64 + p.name.size() * 2 + (p.role == store::Role::lora_b), uint64_t(i)); };

  comm::Rank rank(*device, {int64_t{64} << 20, int64_t{16} << 20, 0});
  Engine engine(rank, shape);
  engine.load(store::open_weights(folder).get());
  engine.load_adapters([&](const store::ParamSpec& p, Tensor to) { for (int64_t i = 0; i < to.count(); ++i) to.get<float>()[i] = value(p, i); });
  store::write_adapter(out, config, engine.model().adapters(), [&](const auto& put) {
    for (const auto& t : engine.model().trained()) put(*t.spec, t.value);
  });
  const Tensor logits = engine.logits(ids);
  store::SafetensorsWriter writer(out / "logits.safetensors", {{"ids", DType::i32, {1, int64_t(ids.size())}}, {"logits", DType::f32, {1, logits.shape[0], logits.shape[1]}}});
  writer.write(Tensor{const_cast<int32_t*>(ids.data()), DType::i32, {int64_t(ids.size())}});
  writer.write(logits);
  writer.commit();

  comm::Rank again(*device, {int64_t{64} << 20, int64_t{16} << 20, 0});
  Engine second(again, shape);
  second.load(store::open_weights(folder).get());
  const store::AdapterFile file(out, second.model().adapters());
  second.load_adapters([&](const store::ParamSpec& p, Tensor to) { file.read(p, to); });
  EXPECT_EQ(nn::relative(second.logits(ids), logits), 0);
}

}  // namespace
}  // namespace thimble::serve
