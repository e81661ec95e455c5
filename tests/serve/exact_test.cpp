// Inference beside transformers: all logits and greedy continuations, of the odd Llamas and of a real pretrained model.
#include "nn/fixture.h"
#include "serve/engine.h"

namespace thimble::serve {
namespace {

using nn::golden;
using nn::relative;

struct Loaded {
  std::unique_ptr<Device> device = device_under_test(nn::f32_spec());
  comm::Rank rank{*device, {int64_t{256} << 20, int64_t{64} << 20, 0}};
  std::unique_ptr<Engine> engine;
  Loaded(const fs::path& folder, int64_t chunk, nn::Method method = {}, bool embedding_on_host = false) {
    engine = std::make_unique<Engine>(rank, EngineShape{.model = models::read_model(folder), .method = method, .context = 256, .prefill_chunk = chunk,
                                                        .embedding_on_host = embedding_on_host});
    engine->load(store::open_weights(folder).get());
  }
};

std::vector<int32_t> vector_of(const Tensor& t) { return {t.get<int32_t>(), t.get<int32_t>() + t.count()}; }

void same_as_transformers(const char* name, bool embedding_on_host = false) {
  const fs::path folder = golden / name;
  const store::SafetensorsFile reference(folder / "reference.safetensors");
  Loaded l(folder, 24, {}, embedding_on_host);
  const Tensor ids = reference.tensor("ids"), logits = reference.tensor("logits");
  const int64_t row = 24 * logits.shape[2];
  for (int64_t b = 0; b < 2; ++b) {
    const Tensor ours = l.engine->logits(vector_of(ids.rows(b, 1)));
    EXPECT_LE(relative(ours.get<float>(), logits.get<float>() + b * row, row), 1e-5);
  }
  Sampler greedy({});
  EXPECT_EQ(l.engine->generate(vector_of(reference.tensor("prompt")), 64, {}, greedy).ids, vector_of(reference.tensor("greedy")));
}

class ExactFamilies : public testing::TestWithParam<std::string> {};
TEST_P(ExactFamilies, LogitsAndGreedyText) { same_as_transformers(("families/" + GetParam()).c_str()); }

// Load, prefill in chunks and then, a chunk being one token, decode: a phantom writes what the device does, entry by entry, and its bytes suffice.
TEST_P(ExactFamilies, LedgerOfPrefillAndDecode) {
  const fs::path folder = golden / "families" / GetParam();
  const auto source = store::open_weights(folder);
  for (const auto format : {quant::FormatId::dense, quant::FormatId::nf4_dq, quant::FormatId::int8})
    for (const int64_t chunk : {5, 1}) {
      const EngineShape shape{.model = models::read_model(folder), .method = {.format = format}, .context = 24, .prefill_chunk = chunk};
      const auto rehearse = [&](comm::Rank& rank) {
        Engine engine(rank, shape);
        engine.load(rank.is_phantom() ? nullptr : source.get());
        engine.score(std::vector<int32_t>(24, 7), std::vector<int32_t>(24, -1));
      };
      const auto phantom = phantom_device(nn::f32_spec()), device = device_under_test(nn::f32_spec());
      comm::Rank dry(*phantom, comm::boundless);
      rehearse(dry);
      comm::Rank real(*device, {dry.ledger.peak(Tier::device), dry.ledger.peak(Tier::pinned), dry.ledger.peak(Tier::host)});
      EXPECT_NO_THROW(rehearse(real));
      EXPECT_EQ(difference(dry.ledger, real.ledger), "") << quant::format(format).name << " by " << chunk;
    }
}
INSTANTIATE_TEST_SUITE_P(All, ExactFamilies, testing::ValuesIn(nn::golden_families()), [](const auto& info) { return info.param; });

TEST(Exact, OddTied) { same_as_transformers("llama_odd_tied"); }
TEST(Exact, OddUntied) { same_as_transformers("llama_odd_untied"); }
TEST(Exact, OddUntiedWithItsEmbeddingOnTheHost) { same_as_transformers("llama_odd_untied", true); }

TEST(Exact, Stories260K) {
  const auto folder = nn::shared_data / "stories260K";
  if (!fs::exists(folder)) GTEST_SKIP() << "skipped: no ../shared/data";
  const store::SafetensorsFile reference(golden / "stories260k.safetensors");
  Loaded l(folder, 32);
  const Tensor logits = reference.tensor("logits");
  EXPECT_LE(relative(l.engine->logits(vector_of(reference.tensor("ids"))), logits), 1e-5);
  Sampler greedy({});
  EXPECT_EQ(l.engine->generate({1, 403, 407, 261, 378}, 200, {}, greedy).ids, vector_of(reference.tensor("greedy0")));
}

TEST(Exact, AnAdapterOfPeft) {
  const auto folder = nn::shared_data / "stories260K", adapter = golden / "peft_stories";
  if (!fs::exists(folder)) GTEST_SKIP() << "skipped: no ../shared/data";
  const auto config = store::read_adapter_config(adapter);
  const nn::Method method{.lora = nn::lora_on(config.rank, float(config.alpha / double(config.rank)))};
  Loaded l(folder, 32, method);
  const store::AdapterFile file(adapter, l.engine->model().adapters());
  l.engine->load_adapters([&](const store::ParamSpec& spec, Tensor to) { file.read(spec, to); });
  const store::SafetensorsFile reference(adapter / "reference.safetensors");
  const Tensor all = l.engine->logits(vector_of(reference.tensor("ids")));
  EXPECT_LE(relative(all.rows(all.shape[0] - 1, 1), reference.tensor("logits")), 1e-5);
}

// Folders that transformers and bitsandbytes wrote (tests/golden/quantised.py): as they are, and with their codes read as numbers. How far each
// position's logits are from theirs, of their largest.
std::vector<double> distances(const char* name, std::optional<quant::FormatId> format = {}) {
  const fs::path folder = golden / "quantised" / name;
  const store::SafetensorsFile reference(folder / "reference.safetensors");
  Loaded l(folder, 24, {.format = format.value_or(models::read_model(folder).stored.format)});
  const Tensor expected = reference.tensor("logits").view({24, reference.tensor("logits").shape[2]}), ours = l.engine->logits(vector_of(reference.tensor("ids")));
  std::vector<double> all;
  for (int64_t t = 0; t < 24; ++t) all.push_back(relative(ours.rows(t, 1), expected.rows(t, 1)));
  return all;
}
double distance(const char* name, std::optional<quant::FormatId> format = {}) {
  const auto all = distances(name, format);
  return *std::max_element(all.begin(), all.end());
}

TEST(Exact, FoldersOfBitsandbytesIn4Bits) {
  using quant::FormatId;
  for (const auto& [name, format] : {std::pair{"nf4", FormatId::nf4}, {"nf4_dq", FormatId::nf4_dq}, {"nf4_bf16_storage", FormatId::nf4_dq}}) {
    EXPECT_EQ(models::read_model(golden / "quantised" / name).stored.format, format);
    EXPECT_LE(distance(name), 1e-5) << name;
    EXPECT_LE(distance(name, FormatId::dense), 1e-5) << name << " as numbers";
    EXPECT_GT(distance(name, FormatId::int8), 1e-4) << name << " packed anew";
  }
}

// Activations are rounded to codes: where a sum's last bit takes one to the next code, that position is off by half a percent. Most are not.
TEST(Exact, AFolderOfBitsandbytesIn8Bits) {
  auto all = distances("int8"), unrounded = distances("int8", quant::FormatId::dense);
  std::sort(all.begin(), all.end()), std::sort(unrounded.begin(), unrounded.end());
  EXPECT_LE(all[all.size() / 2], 1e-6);
  EXPECT_LE(all.back(), 2e-2);
  EXPECT_GE(unrounded.front(), 1e-3) << "the rounding is what is seen";
}

TEST(Exact, AFolderOfFloatsIn8Bits) {
  EXPECT_LE(distance("fp8"), 1e-5);
  EXPECT_LE(distance("fp8", quant::FormatId::int8), 5e-2);
  EXPECT_LE(distance("fp8", quant::FormatId::nf4), 0.5);
  const fs::path folder = golden / "quantised/fp8";
  const store::SafetensorsFile reference(folder / "reference.safetensors");
  for (const auto& t : reference.tensors()) {  // to the bit, read in two pieces
    if (!t.name.starts_with("weight.")) continue;
    std::vector<bf16> numbers(size_t(t.shape.count()));
    const Tensor all{numbers.data(), DType::bf16, t.shape}, expected = reference.tensor(std::string(t.name));
    const auto source = store::open_weights(folder);
    source->read(std::string(t.name.substr(7)), 0, all.rows(0, 11));
    source->read(std::string(t.name.substr(7)), 11, all.rows(11, t.shape[0] - 11));
    EXPECT_EQ(std::memcmp(numbers.data(), expected.data, size_t(all.bytes())), 0) << t.name;
  }
}

}  // namespace
}  // namespace thimble::serve
