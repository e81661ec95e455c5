// Folders of weights: one file or shards, an index that lies, tables that do not agree; and weights on their way into a store.
#include "store/weight_source.h"

#include <cmath>
#include <cstring>

#include "base/json.h"
#include "files.h"
#include "store/weight_store.h"

namespace thimble::store {
namespace {

constexpr const char* index_name = "model.safetensors.index.json";

// Two layers of one norm and one matrix each, and an embedding.
std::vector<Named> tensors(DType dtype) {
  return {
      {"embed", dtype, {7, 4}}, {"0.norm", dtype, {4}}, {"0.matrix", dtype, {6, 4}}, {"1.norm", dtype, {4}}, {"1.matrix", dtype, {6, 4}}};
}
ParamTable table(quant::FormatId format = quant::FormatId::dense, DType dtype = DType::f32) {
  ParamTable t;
  t.outside.push_back({"embed", {7, 4}, Role::embedding, -1, quant::FormatId::dense, dtype});
  for (int l = 0; l < 2; ++l)
    t.layers.push_back({{fmt::format("{}.norm", l), {4}, Role::norm, l, quant::FormatId::dense, dtype},
                        {fmt::format("{}.matrix", l), {6, 4}, Role::linear, l, format, dtype}});
  return t;
}

std::string index_of(std::initializer_list<std::pair<const char*, const char*>> entries) {
  Json map = Json::object();
  for (const auto& [name, file] : entries) map[name] = file;
  return Json{{"weight_map", map}}.dump();
}

// The tensors of `tensors(dtype)` in two shards.
void write_shards(const fs::path& folder, DType dtype) {
  const auto all = tensors(dtype);
  write_numbers(folder / "one.safetensors", {all[0], all[1], all[2]});
  write_numbers(folder / "two.safetensors", {all[3], all[4]});
  write_atomically(folder / index_name, index_of({{"embed", "one.safetensors"},
                                                  {"0.norm", "one.safetensors"},
                                                  {"0.matrix", "one.safetensors"},
                                                  {"1.norm", "two.safetensors"},
                                                  {"1.matrix", "two.safetensors"}}));
}

std::vector<float> values_of(const WeightSource& source, const std::string& name, int64_t row, Shape shape) {
  std::vector<float> v(size_t(shape.count()));
  source.read(name, row, {v.data(), DType::f32, shape});
  return v;
}

TEST(WeightSource, OneFileAndShardsAreReadAlikeInEveryType) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const Folder one, shards;
    write_numbers(one.path / "model.safetensors", tensors(dtype));
    write_shards(shards.path, dtype);
    const auto a = open_weights(one.path), b = open_weights(shards.path);
    for (const auto* source : {a.get(), b.get()}) EXPECT_NO_THROW(source->check_table(table()));
    for (size_t n = 0; n < 5; ++n) {
      const auto t = tensors(dtype)[n];
      ASSERT_TRUE(a->has(t.name) && b->has(t.name));
      const auto x = values_of(*a, t.name, 0, t.shape), y = values_of(*b, t.name, 0, t.shape);
      for (int64_t i = 0; i < t.shape.count(); ++i) {
        ASSERT_EQ(x[size_t(i)], number(n, i));
        ASSERT_EQ(y[size_t(i)], number(n < 3 ? n : n - 3, i));
      }
    }
    const auto rows = values_of(*a, "embed", 5, {2, 4});
    EXPECT_EQ(rows[0], number(0, 20));
    expect_refused([&] { values_of(*a, "embed", 6, {2, 4}); }, {"'embed'", "another shape", "rows of (2, 4)", "(7, 4)"});
    expect_refused([&] { values_of(*a, "embed", 0, {7, 5}); }, {"'embed'", "another shape"});
    expect_refused([&] { values_of(*a, "embed", 0, {28}); }, {"'embed'", "another shape"});
    expect_refused([&] { values_of(*a, "head", 0, {7, 4}); }, {"missing", "head"});
  }
}

TEST(WeightSource, EveryLieOfAnIndexIsRefused) {
  const Folder folder;
  write_shards(folder.path, DType::f32);
  const fs::path outside = folder.path / "outside.safetensors", inner = folder.path / "model";
  write_numbers(outside, {{"embed", DType::f32, {7, 4}}});
  fs::create_directories(inner / "sub");
  write_numbers(inner / "sub" / "one.safetensors", {{"embed", DType::f32, {7, 4}}});
  write_numbers(inner / "one.safetensors", {{"embed", DType::f32, {7, 4}}});
  write_numbers(inner / "two.safetensors", {{"embed", DType::f32, {7, 4}}, {"head", DType::f32, {7, 4}}});
  const struct {
    const char* of;
    std::string text;
    std::vector<std::string_view> words;
  } lies[] = {
      {"nothing", "", {"cannot parse JSON"}},
      {"an array", "[]", {"'weight_map'"}},
      {"no map", "{}", {"'weight_map'"}},
      {"a map that is a list", R"({"weight_map":[]})", {"'weight_map'"}},
      {"a file that is a number", R"({"weight_map":{"embed":1}})", {"weight_map.embed", "a string"}},
      {"a file that is null", R"({"weight_map":{"embed":null}})", {"weight_map.embed"}},
      {"an empty file name", index_of({{"embed", ""}}), {"inside the folder"}},
      {"the folder above", index_of({{"embed", ".."}}), {"inside the folder"}},
      {"the folder itself", index_of({{"embed", "."}}), {"inside the folder"}},
      {"a file in the folder above", index_of({{"embed", "../outside.safetensors"}}), {"inside the folder", "../outside"}},
      {"an absolute path", index_of({{"embed", outside.c_str()}}), {"inside the folder"}},
      {"a folder below", index_of({{"embed", "sub/one.safetensors"}}), {"inside the folder"}},
      {"a detour", index_of({{"embed", "sub/../one.safetensors"}}), {"inside the folder"}},
      {"a folder for a file", index_of({{"embed", "sub"}}), {"not a regular file"}},
      {"a missing shard", index_of({{"embed", "gone.safetensors"}}), {"a shard is missing", "gone.safetensors"}},
      {"a name that is too long for a file", R"({"weight_map":{"embed":")" + std::string(300, 'a') + R"("}})", {"a shard is missing", "aaa"}},
      {"a shard that is no safetensors file", index_of({{"embed", index_name}}), {index_name}},
      {"a tensor that its shard does not hold",
       index_of({{"embed", "one.safetensors"}, {"head", "one.safetensors"}}),
       {"does not hold", "one.safetensors", "head"}},
      {"a tensor in one shard twice", R"({"weight_map":{"embed":"one.safetensors","embed":"one.safetensors"}})", {"twice", "embed"}},
      {"a tensor in two shards", R"({"weight_map":{"embed":"one.safetensors","embed":"two.safetensors"}})", {"twice", "embed"}},
      {"a tensor in another shard too", index_of({{"embed", "one.safetensors"}, {"head", "two.safetensors"}}), {"two shards hold", "two.safetensors", "'embed'"}},
      {"no tensor", R"({"weight_map":{}})", {"'weight_map'"}},
      {"a size below zero", R"({"metadata":{"total_size":-1},"weight_map":{"embed":"one.safetensors"}})", {"metadata.total_size"}},
      {"a size in words", R"({"metadata":{"total_size":"1"},"weight_map":{"embed":"one.safetensors"}})", {"metadata.total_size"}},
      {"an escape in a name", R"({"weight_map":{"\u001b[2J":"one.safetensors"}})", {"does not hold"}},
      {"a name of 1 MB", R"({"weight_map":{")" + std::string(1 << 20, 'y') + R"(":"one.safetensors"}})", {"does not hold"}},
  };
  for (const auto& lie : lies) {
    write_atomically(inner / index_name, lie.text);
    expect_refused([&] { open_weights(inner); }, lie.words, lie.of);
  }
  write_atomically(inner / index_name, index_of({{"embed", "one.safetensors"}}));
  EXPECT_TRUE(open_weights(inner)->has("embed"));
  // Shards may be links, as in the cache of huggingface_hub; only the index must not name what lies elsewhere.
  fs::create_symlink(outside, inner / "link.safetensors");
  write_atomically(inner / index_name, index_of({{"embed", "link.safetensors"}}));
  EXPECT_TRUE(open_weights(inner)->has("embed"));
}

TEST(WeightSource, FoldersWithoutWeights) {
  const Folder folder;
  expect_refused([&] { open_weights(folder.path / "gone"); }, {"no weights"});
  expect_refused([&] { open_weights(folder.path); }, {"no weights", "model.safetensors"});
  folder.put("pytorch_model.bin", "x");
  expect_refused([&] { open_weights(folder.path); }, {"can run code", "safe_serialization"});
  folder.put("model.safetensors", "");
  expect_refused([&] { open_weights(folder.path); }, {"too short", "model.safetensors"});
}

TEST(WeightSource, ATableThatDoesNotAgree) {
  const Folder folder;
  write_numbers(folder.path / "model.safetensors", tensors(DType::bf16));
  const auto source = open_weights(folder.path);
  const auto changed = [&](const std::function<void(ParamTable&)>& f) {
    auto t = table();
    f(t);
    return t;
  };
  expect_refused([&] { source->check_table(changed([](auto& t) {
                         t.outside.push_back({"lm_head.weight", {7, 4}});
                       })); },
                 {"missing", "lm_head.weight"});
  expect_refused([&] { source->check_table(changed([](auto& t) {
                         t.outside[0].shape = {8, 4};
                       })); },
                 {"'embed'", "(8, 4)", "(7, 4)", "config.json"});
  expect_refused([&] { source->check_table(changed([](auto& t) { t.layers[1][1].shape = {4, 6}; })); }, {"'1.matrix'", "(4, 6)", "(6, 4)"});
  expect_refused([&] { source->check_table(changed([](auto& t) { t.layers[0][0].shape = {2, 2}; })); }, {"'0.norm'", "(2, 2)", "(4)"});

  const Folder integers;
  integers.put("model.safetensors", file_of(R"({"embed":{"dtype":"I32","shape":[7,4],"data_offsets":[0,112]}})", 112));
  ParamTable only;
  only.outside.push_back(table().outside[0]);
  expect_refused([&] { open_weights(integers.path)->check_table(only); }, {"'embed'", "F32, BF16 or F16", "I32"});
}

// The head that is the embedding may stand in the files once more, with its numbers and no others.
TEST(WeightSource, ATiedHeadOfItsOwnIsRefused) {
  const Folder folder;
  ParamTable t;
  t.outside.push_back(table().outside[0]);
  t.outside[0].also = "head";
  float numbers[28] = {1, 2, 3};
  const auto check = [&](DType type, Shape shape, float last) {
    SafetensorsWriter writer(folder.path / "model.safetensors", {{"embed", DType::f32, {7, 4}}, {"head", type, shape}});
    numbers[27] = 4;
    writer.write({numbers, DType::f32, {7, 4}});
    numbers[27] = last;
    writer.write({numbers, type, shape});
    writer.commit();
    open_weights(folder.path)->check_table(t);
  };
  EXPECT_NO_THROW(check(DType::f32, {7, 4}, 4));
  expect_refused([&] { check(DType::f32, {7, 4}, 5); }, {"ties two parameters", "'head'", "'embed'", "tie_word_embeddings to false"});
  expect_refused([&] { check(DType::f32, {4, 7}, 4); }, {"ties two parameters", "'head'"});
}

TEST(WeightSource, RandomWeightsDependOnSeedNameAndPlaceOnly) {
  const auto a = random_weights(table(), 1), b = random_weights(table(), 1), c = random_weights(table(), 2);
  const auto whole = values_of(*a, "embed", 0, {7, 4}), part = values_of(*b, "embed", 3, {2, 4});
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(part[i], whole[12 + i]);
  EXPECT_NE(values_of(*c, "embed", 0, {7, 4}), whole);
  EXPECT_NE(values_of(*a, "0.matrix", 0, {6, 4}), values_of(*a, "1.matrix", 0, {6, 4}));
  for (const float x : values_of(*a, "0.norm", 0, {4})) EXPECT_EQ(x, 1.0f);
  for (const float x : whole) EXPECT_LT(std::fabs(x), 0.2f);
}

struct Machine {
  std::unique_ptr<Device> device = cpu_device(this_cpu());
  comm::Rank rank{*device, {1 << 20, 1 << 20, 0}};
};

TEST(WeightStore, ResidentAndStreamedLayersHoldWhatTheFilesHold) {
  const Folder folder;
  write_shards(folder.path, DType::bf16);
  const auto source = open_weights(folder.path);
  for (const int resident : {2, 1, 0}) {
    Machine m;
    WeightStore store(m.rank, std::make_shared<ParamTable>(table()), {.layers = 2, .resident = resident});
    store.load(source.get());
    EXPECT_EQ(store.outside(0).dense().get<float>()[27], number(0, 27));
    for (const int layer : {0, 1, 1, 0}) {
      const auto weights = store.acquire(layer, 1 - layer);
      ASSERT_EQ(weights.size(), 2u);
      for (int64_t i = 0; i < 24; ++i)
        ASSERT_EQ(weights[1].dense().get<float>()[i], number(layer ? 1 : 2, i)) << "layer " << layer << ", " << resident << " resident";
      store.release(layer);
    }
  }
}

// In an arena that the dense matrix would not fit; the bytes are those of the matrix packed whole.
TEST(WeightStore, AMatrixIsPackedInStripsOfItsRows) {
  const Shape shape{20'003, 1000};
  for (const auto format : {quant::FormatId::nf4, quant::FormatId::nf4_dq, quant::FormatId::int8}) {
    auto head = std::make_shared<ParamTable>();
    head->outside.push_back({"head", shape, Role::head, -1, format, DType::bf16});
    const auto source = repeated_random_weights(*head, 3);
    const auto device = cpu_device(this_cpu());
    const int64_t packed = quant::bytes_of(format, shape, DType::bf16), dense = shape.count() * 2;
    comm::Rank rank(*device, {packed + (int64_t{18} << 20), 5 << 20, 0}), whole_rank(*device, {packed + dense + (int64_t{2} << 20), 0, 0});
    WeightStore store(rank, head, {});
    store.load(source.get());
    const Tensor numbers = whole_rank.memory.take(Use::scratch, "numbers", DType::bf16, shape);
    source->read("head", 0, numbers);
    quant::Weight whole{.format = format, .shape = shape};
    int count = 0;
    const auto parts = quant::parts_of(format, shape, DType::bf16, count);
    for (size_t i = 0; i < size_t(count); ++i) whole.parts[i] = whole_rank.memory.take(Use::weights, "packed", parts[i].dtype, parts[i].shape);
    quant::format(format).pack(whole_rank.stream, whole, numbers);
    for (size_t i = 0; i < size_t(count); ++i)
      EXPECT_EQ(std::memcmp(store.outside(0).parts[i].data, whole.parts[i].data, size_t(whole.parts[i].bytes())), 0) << quant::format(format).name << " part " << i;
  }
}

TEST(WeightStore, AParameterThatIsMissingEndsTheLoadAndNamesIt) {
  const Folder folder;
  auto some = tensors(DType::f32);
  some.pop_back();
  write_numbers(folder.path / "model.safetensors", some);
  for (const auto format : {quant::FormatId::dense, quant::FormatId::nf4}) {
    Machine m;
    WeightStore store(m.rank, std::make_shared<ParamTable>(table(format)), {.layers = 2, .resident = 1});
    expect_refused([&] { store.load(open_weights(folder.path).get()); }, {"missing", "1.matrix"});
  }
}

}  // namespace
}  // namespace thimble::store
