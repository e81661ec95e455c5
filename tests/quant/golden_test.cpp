// NF4 against bitsandbytes' CUDA kernels: the bytes that tests/golden/make_gpu.py recorded.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "golden_folder.h"
#include "quant/dynamic8.h"
#include "quant/nf4.h"
#include "quant/rig.h"
#include "store/safetensors.h"

namespace thimble::quant {
namespace {

using testing::Rig;
const auto path = golden_folder() / "nf4.safetensors";

Tensor copy_of(Rig& rig, const Tensor& t) {
  const Tensor to = rig.take(t.dtype, t.shape);
  std::memcpy(to.data, t.data, size_t(t.bytes()));
  return to;
}

// The names before ".weight": one a case.
std::set<std::string> cases_of(const store::SafetensorsFile& file) {
  std::set<std::string> names;
  for (const auto& t : file.tensors())
    if (t.name.ends_with(".weight")) names.emplace(t.name.substr(0, t.name.size() - 7));
  return names;
}

// By bits, but a zero may have either sign.
void expect_equal_values(const Tensor& ours, const Tensor& theirs) {
  ASSERT_EQ(ours.count(), theirs.count());
  EXPECT_EQ(testing::as_doubles(ours), testing::as_doubles(theirs));
}

}  // namespace

TEST(Nf4Golden, PacksToTheSameBytes) {
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there: make_gpu.py makes it on a CUDA card";
  const store::SafetensorsFile file(path);
  const auto names = cases_of(file);
  EXPECT_GE(names.size(), 7u);
  const Tensor map = file.tensor("nested_map");
  for (int i = 0; i < 256; ++i) EXPECT_EQ(signed_map()[i], map.get<float>()[i]);
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    Rig rig;
    const Tensor dense = copy_of(rig, file.tensor(name + ".weight"));
    const Weight plain = rig.take_weight(FormatId::nf4, dense.shape), dq = rig.take_weight(FormatId::nf4_dq, dense.shape);
    nf4_pack(rig.stream, plain, dense);
    EXPECT_EQ(testing::bytes_of(plain.parts[0]), testing::bytes_of(file.tensor(name + ".codes")));
    EXPECT_EQ(testing::bytes_of(plain.parts[1]), testing::bytes_of(file.tensor(name + ".absmax")));

    nf4_dq_pack(rig.stream, dq, dense);
    const Tensor offset = file.tensor(name + ".dq.offset");
    EXPECT_FLOAT_EQ(*dq.parts[3].get<float>(), *offset.get<float>());  // their sum has another order
    std::memcpy(dq.parts[3].data, offset.data, sizeof(float));
    nf4_nest(rig.stream, dq.parts[1], dq.parts[2], plain.parts[1], dq.parts[3]);
    EXPECT_EQ(testing::bytes_of(dq.parts[1]), testing::bytes_of(file.tensor(name + ".dq.codes")));
    EXPECT_EQ(testing::bytes_of(dq.parts[2]), testing::bytes_of(file.tensor(name + ".dq.absmax")));

    if (!file.find(name + ".values")) continue;
    const Tensor back = rig.take(dense.dtype, dense.shape);
    nf4_unpack(rig.stream, back, plain);
    expect_equal_values(back, file.tensor(name + ".values"));
    nf4_unpack(rig.stream, back, dq);
    expect_equal_values(back, file.tensor(name + ".dq.values"));
  }
}

TEST(Int8Golden, CodesAndScalesAreBitsandbytes) {
  const store::SafetensorsFile file(golden_folder() / "llm_int8.safetensors");
  for (const auto& name : cases_of(file)) {
    Rig rig;
    const Tensor codes = file.tensor(name + ".codes"), absmax = file.tensor(name + ".absmax");
    const Weight w = rig.take_weight(FormatId::int8, codes.shape);
    format(FormatId::int8).pack(rig.stream, w, copy_of(rig, file.tensor(name + ".weight")));
    EXPECT_EQ(testing::bytes_of(w.parts[0]), testing::bytes_of(codes)) << name;
    EXPECT_EQ(testing::bytes_of(w.parts[1]), testing::bytes_of(absmax)) << name;
  }
}

}  // namespace thimble::quant
