// Rows by token id, and the gradient of the table: added to, repeated tokens included.
#include "ops/embedding.h"

#include "ops/harness.h"

namespace thimble::ops {
namespace {

using namespace test;

constexpr int64_t vocab = 50;

std::vector<int32_t> some_ids(int64_t tokens) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) ids.push_back(t ? int32_t(philox(5, 6, uint64_t(t))[0] % 7) : int32_t(vocab - 1));  // many repeats
  return ids;
}

TEST(Embedding, TakesRowsAndConvertsThem) {
  for (const int64_t tokens : {1, 17, 130})
    for (const int64_t channels : {6, 64, 37})
      for (const DType t : {DType::f32, DType::bf16})
        for (const DType table_type : {DType::f32, DType::bf16, DType::f16}) {
          World world;
          const Tensor table = world.normal(table_type, {vocab, channels}, 1), y = world.empty(t, {tokens, channels});
          const auto ids = some_ids(tokens);
          embedding(world, y, world.ints(ids), table);
          const Numbers rows = world.read(table), got = world.read(y);
          for (int64_t i = 0; i < y.count(); ++i) {
            const auto want = float(rows[size_t(ids[size_t(i / channels)] * channels + i % channels)]);
            ASSERT_EQ(got[size_t(i)], double(t == DType::f32 ? want : float(bf16(want))));
          }
        }
}

// A packed table's rows are those that it unpacks to.
TEST(Embedding, OfAPackedTable) {
  for (const auto id : {quant::FormatId::nf4, quant::FormatId::nf4_dq, quant::FormatId::int8})
    for (const int64_t channels : {6, 64, 37})
      for (const DType t : {DType::f32, DType::bf16}) {
        World world;
        const Tensor dense = world.normal(DType::f32, {vocab, channels}, 1), y = world.empty(t, {17, channels});
        quant::Weight table{.format = id, .shape = dense.shape};
        int count = 0;
        const auto parts = quant::parts_of(id, dense.shape, DType::f32, count);
        for (size_t i = 0; i < size_t(count); ++i) table.parts[i] = world.empty(parts[i].dtype, parts[i].shape);
        quant::format(id).pack(world, table, dense);
        quant::format(id).unpack(world, dense, table);
        const auto ids = some_ids(17);
        embedding(world, y, world.ints(ids), table);
        const Numbers rows = world.read(dense), got = world.read(y);
        for (int64_t i = 0; i < y.count(); ++i) {
          const auto want = float(rows[size_t(ids[size_t(i / channels)] * channels + i % channels)]);
          ASSERT_EQ(got[size_t(i)], double(t == DType::f32 ? want : float(bf16(want)))) << quant::format(id).name;
        }
      }
}

TEST(Embedding, GradientIsAddedInTheOrderOfTheTokens) {
  for (const int64_t tokens : {1, 17, 130})
    for (const int64_t channels : {6, 64, 37})
      for (const DType t : {DType::f32, DType::bf16}) {
        World world;
        const Tensor dtable = world.normal(DType::f32, {vocab, channels}, 1), dy = world.normal(t, {tokens, channels}, 2);
        const auto ids = some_ids(tokens);
        Numbers want = world.read(dtable);
        const Numbers d = world.read(dy);
        embedding_backward(world, dtable, dy, world.ints(ids));
        for (int64_t i = 0; i < dy.count(); ++i) {
          double& at = want[size_t(ids[size_t(i / channels)] * channels + i % channels)];
          at = double(float(at) + float(d[size_t(i)]));  // the same float sums in the same order: equal to the bit
        }
        EXPECT_EQ(world.read(dtable), want);
      }
}

TEST(Embedding, PhantomAndThreads) {
  const auto run = [](World& world) {
    const Tensor ids = world.ints(some_ids(300)), table = world.normal(DType::bf16, {vocab, 130}, 1);
    const Tensor y = world.empty(DType::f32, {300, 130}), dtable = world.filled(DType::f32, {vocab, 130}, 0);
    embedding(world, y, ids, table);
    embedding_backward(world, dtable, y, ids);
    return std::vector<Tensor>{y, dtable};
  };
  expect_phantom_agrees(run);
  expect_threads_change_nothing(run);
}

}  // namespace
}  // namespace thimble::ops
