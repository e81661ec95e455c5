// Models in one file and in shards: the same numbers, shards within their limit, an index that the reader accepts.
#include "store/model_writer.h"

#include "files.h"
#include "store/weight_source.h"

namespace thimble::store {
namespace {

TEST(ModelWriter, ShardsHoldWhatOneFileHolds) {
  const std::vector<SafetensorsWriter::Declared> declared = {{"a", DType::bf16, {6, 5}}, {"none", DType::f32, {0, 4}}, {"b", DType::f32, {9, 4}}, {"c", DType::u8, {3}}, {"d", DType::f32, {2}}};
  for (const auto& [limit, shards] : {std::pair{int64_t{1000}, 1}, {int64_t{160}, 2}, {int64_t{100}, 3}, {int64_t{1}, 4}}) {
    const Folder folder;
    ModelWriter writer(folder.path / "model", declared, limit);
    for (const auto& t : declared) {
      std::string bytes(size_t(t.shape.count() * size_of(t.dtype)), t.name[0]);
      const int64_t first = t.shape.count() / 2;
      writer.write({bytes.data(), t.dtype, {first}});
      writer.write({bytes.data(), t.dtype, {t.shape.count() - first}});
    }
    EXPECT_EQ(writer.commit(), shards) << limit;
    int files = 0;
    for (const auto& file : fs::directory_iterator(folder.path / "model")) files += file.path().extension() == ".safetensors";
    EXPECT_EQ(files, shards);
    EXPECT_EQ(fs::exists(folder.path / "model/model.safetensors.index.json"), shards > 1);
    const auto source = open_weights(folder.path / "model");
    for (const auto& t : declared) EXPECT_TRUE(source->has(t.name)) << t.name;
    std::vector<float> b(36);
    source->read("b", 0, {b.data(), DType::f32, {9, 4}});
    for (const float x : b) EXPECT_EQ(std::memcmp(&x, "bbbb", 4), 0);
  }
}

TEST(ModelWriter, AMisuseOrAStopLeavesNoIndex) {
  const Folder folder;
  {
    ModelWriter writer(folder.path, {{"a", DType::u8, {4}}, {"b", DType::u8, {4}}}, 4);
    writer.write({const_cast<char*>("aaaa"), DType::u8, {4}});
    EXPECT_THROW(writer.commit(), Error);
  }
  EXPECT_FALSE(fs::exists(folder.path / "model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(folder.path / "model-00002-of-00002.safetensors"));
}

}  // namespace
}  // namespace thimble::store
