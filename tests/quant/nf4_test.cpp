// NF4 by hand, by its properties, and against a plain reading of its bytes written here.
#include "quant/nf4.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quant/dynamic8.h"
#include "quant/rig.h"

namespace thimble::quant {
namespace {

using testing::Rig;

Weight pack(Rig& rig, FormatId id, Tensor dense, Shape matrix) {
  const Weight w = rig.take_weight(id, matrix);
  format(id).pack(rig.stream, w, dense);
  return w;
}

Weight pack_values(Rig& rig, FormatId id, const std::vector<float>& values) {
  const Tensor dense = rig.take(DType::f32, {1, int64_t(values.size())});
  std::copy(values.begin(), values.end(), dense.get<float>());
  return pack(rig, id, dense, dense.shape);
}

int code_at(const Weight& w, int64_t i) {
  const uint8_t byte = w.parts[0].get<uint8_t>()[i / 2];
  return i % 2 == 0 ? byte / 16 : byte % 16;
}

// The scale of a block as the format defines it, each operation rounded to f32.
float scale_at(const Weight& w, int64_t block) {
  if (w.format == FormatId::nf4) return w.parts[1].get<float>()[block];
  const volatile float product = signed_map()[w.parts[1].get<uint8_t>()[block]] * w.parts[2].get<float>()[block / 256];
  return product + *w.parts[3].get<float>();
}

}  // namespace

TEST(Nf4, CodesByHand) {
  Rig rig;
  // absmax 2: scaled values 1, -1, 0, 0.5, -0.5, 0.04, 0.03
  const Weight w = pack_values(rig, FormatId::nf4, {2, -2, 0, 1, -1, 0.08f, 0.06f});
  const uint8_t expected[] = {0xf0, 0x7c, 0x28, 0x77};  // 0.5 lies under the threshold 0.50166 of code 13, -0.5 under -0.45999 of code 3;
  // the half byte behind the last weight is the code of 0
  EXPECT_EQ(w.parts[0].count(), 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(int(w.parts[0].get<uint8_t>()[i]), int(expected[i])) << i;
  EXPECT_EQ(w.parts[1].count(), 1);
  EXPECT_EQ(*w.parts[1].get<float>(), 2.0f);

  const Tensor back = rig.take(DType::f32, {1, 7});
  nf4_unpack(rig.stream, back, w);
  const float values[] = {2, -2, 0, 0.88141965866088867f, -1.0501461029052734f, 0.1591605991125107f, 0};
  for (int i = 0; i < 7; ++i) EXPECT_FLOAT_EQ(back.get<float>()[i], values[i]) << i;
}

TEST(Nf4, ThresholdsAreStrict) {
  Rig rig;
  std::vector<float> values{1.0f};
  for (const float t : nf4_thresholds) values.push_back(t), values.push_back(std::nextafter(t, 2.0f));
  const Weight w = pack_values(rig, FormatId::nf4, values);
  for (int k = 0; k < 15; ++k) {
    EXPECT_EQ(code_at(w, 1 + 2 * k), k);
    EXPECT_EQ(code_at(w, 2 + 2 * k), k + 1);
  }
}

TEST(Nf4, CodesAreNearest) {
  Rig rig;
  constexpr int64_t n = 64 * 500;
  const Tensor x = rig.take(DType::f32, {1, n});
  for (int64_t i = 0; i < n; ++i) x.get<float>()[i] = i % 64 == 0 ? 1.0f : 2 * uniform_at(11, 0, uint64_t(i)) - 1;
  const Weight w = pack(rig, FormatId::nf4, x, x.shape);
  for (int64_t i = 0; i < n; ++i) {
    const double v = x.get<float>()[i];
    double least = 4;
    for (const float c : nf4_values) least = std::min(least, std::abs(double(c) - v));
    ASSERT_LE(std::abs(double(nf4_values[size_t(code_at(w, i))]) - v), least + 2e-7) << v;
  }
}

TEST(Nf4, ReciprocalIsMultiplied) {
  Rig rig;
  int64_t differing = 0;  // blocks where dividing would choose another code: the case must be met for the test to say anything
  for (uint64_t i = 0; i < 20000; ++i) {
    const float absmax = 0.5f + uniform_at(5, 1, i);
    for (const float t : nf4_thresholds) {
      const float x = t * absmax, r = 1.0f / absmax;
      if ((x * r > t) != (x / absmax > t)) {
        const Scope scope(rig.memory);
        const Weight w = pack_values(rig, FormatId::nf4, {absmax, x});
        int expected = 0;
        for (const float u : nf4_thresholds) expected += x * r > u;
        EXPECT_EQ(code_at(w, 1), expected);
        ++differing;
      }
    }
  }
  EXPECT_GT(differing, 100);
}

TEST(Nf4, ZeroBlock) {
  Rig rig;
  const Weight w = pack_values(rig, FormatId::nf4, std::vector<float>(64, 0.0f));
  for (int i = 0; i < 32; ++i) EXPECT_EQ(int(w.parts[0].get<uint8_t>()[i]), 0);
  EXPECT_EQ(*w.parts[1].get<float>(), 0.0f);
  const Tensor back = rig.take(DType::f32, {1, 64});
  nf4_unpack(rig.stream, back, w);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(std::bit_cast<uint32_t>(back.get<float>()[i]), 0x80000000u);  // -1 * 0
}

TEST(Nf4, UnpackReadsTheBytesAsDefined) {
  for (const FormatId id : {FormatId::nf4, FormatId::nf4_dq})
    for (const auto& [rows, columns] : {std::pair{64, 128}, {33, 70}, {7, 65}, {1, 1}, {131, 127}, {300, 512}})
      for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
        Rig rig;
        const Tensor x = rig.take(type, {rows, columns});
        testing::fill_normal(x, 3, 0.05f);
        const Weight w = pack(rig, id, x, x.shape);
        const Tensor f = rig.take(DType::f32, x.shape), b = rig.take(DType::bf16, x.shape), h = rig.take(DType::f16, x.shape);
        for (const Tensor& t : {f, b, h}) nf4_unpack(rig.stream, t, w);
        for (int64_t i = 0; i < x.count(); ++i) {
          const float value = nf4_values[size_t(code_at(w, i))] * scale_at(w, i / 64);
          ASSERT_EQ(std::bit_cast<uint32_t>(f.get<float>()[i]), std::bit_cast<uint32_t>(value)) << i;
          ASSERT_EQ(b.get<bf16>()[i].bits, bf16(value).bits) << i;
          ASSERT_EQ(float(h.get<f16>()[i]), float(f16(value))) << i;
        }
        if (x.count() % 2 == 1) {
          EXPECT_EQ(w.parts[0].get<uint8_t>()[x.count() / 2] & 15, 7) << "a zero behind the last weight";
        }
      }
}

TEST(Nf4, RoundTripErrorIsBounded) {
  Rig rig;
  const Tensor x = rig.take(DType::f32, {256, 512}), back = rig.take(DType::f32, {256, 512});
  testing::fill_normal(x, 4);
  float widest = 0;
  for (size_t i = 0; i < 15; ++i) widest = std::max(widest, nf4_values[i + 1] - nf4_values[i]);
  for (const FormatId id : {FormatId::nf4, FormatId::nf4_dq}) {
    const Weight w = pack(rig, id, x, x.shape);
    nf4_unpack(rig.stream, back, w);
    double error = 0, size = 0;
    for (int64_t i = 0; i < x.count(); ++i) {
      const float a = x.get<float>()[i], b = back.get<float>()[i];
      error += double(a - b) * double(a - b);
      size += double(a) * double(a);
      if (id == FormatId::nf4) {
        ASSERT_LE(std::abs(a - b), scale_at(w, i / 64) * widest / 2 * 1.00001f);
      }
    }
    EXPECT_LT(std::sqrt(error / size), 0.1);   // 0.0914 for normal numbers in blocks of 64
    EXPECT_GT(std::sqrt(error / size), 0.08);
  }
}

TEST(Nf4, NestedScalesAreTheReferences) {
  Rig rig;
  const Tensor x = rig.take(DType::f32, {517, 320});  // 2585 blocks, 11 nested ones, the last short
  testing::fill_normal(x, 5);
  const Weight plain = pack(rig, FormatId::nf4, x, x.shape), dq = pack(rig, FormatId::nf4_dq, x, x.shape);
  EXPECT_EQ(testing::bytes_of(plain.parts[0]), testing::bytes_of(dq.parts[0]));

  const auto absmax = testing::as_doubles(plain.parts[1]);
  double mean = 0;
  for (const double a : absmax) mean += a / double(absmax.size());
  const float offset = *dq.parts[3].get<float>();
  EXPECT_FLOAT_EQ(offset, float(mean));
  for (size_t g = 0; g * 256 < absmax.size(); ++g) {
    float most = 0;
    const size_t end = std::min(absmax.size(), (g + 1) * 256);
    for (size_t b = g * 256; b < end; ++b) most = std::max(most, std::abs(float(absmax[b]) - offset));
    ASSERT_EQ(dq.parts[2].get<float>()[g], most);
    const float r = 1.0f / most;
    for (size_t b = g * 256; b < end; ++b)
      ASSERT_EQ(int(dq.parts[1].get<uint8_t>()[b]), signed_map().nearest((float(absmax[b]) - offset) * r)) << b;
  }
}

TEST(Nf4, PackDoesNotDependOnThreads) {
  const int threads = thread_count();
  std::vector<std::vector<std::byte>> first;
  for (const int n : {1, 2, 3}) {
    set_thread_count(n);
    Rig rig;
    const Tensor x = rig.take(DType::bf16, {517, 321});
    testing::fill_normal(x, 6);
    const Weight w = pack(rig, FormatId::nf4_dq, x, x.shape);
    std::vector<std::vector<std::byte>> parts;
    for (const Tensor& t : w.parts) parts.push_back(testing::bytes_of(t));
    if (first.empty()) first = parts;
    EXPECT_EQ(parts, first) << n << " threads";
  }
  set_thread_count(threads);
}

}  // namespace thimble::quant
