// The table of formats: sizes, errors, products with a few tokens for every format, and the phantom.
#include "quant/weight.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quant/int8.h"
#include "quant/nf4.h"
#include "quant/rig.h"

namespace thimble::quant {
namespace {

using testing::Rig;

struct Case {
  FormatId id;
  DType dense;
};
const Case cases[] = {{FormatId::dense, DType::f32}, {FormatId::dense, DType::bf16}, {FormatId::dense, DType::f16},
                      {FormatId::nf4, DType::bf16}, {FormatId::nf4_dq, DType::bf16}, {FormatId::int8, DType::bf16}};

int64_t raw_bytes(FormatId id, Shape matrix, DType dense) {
  int n = 0;
  const auto parts = parts_of(id, matrix, dense, n);
  int64_t sum = 0;
  for (size_t i = 0; i < size_t(n); ++i) sum += parts[i].shape.count() * size_of(parts[i].dtype);
  return sum;
}

}  // namespace

// Every number of 16 bits, those between two of them, and ties: as the processor's own conversion.
TEST(Formats, ThroughF16AsTheProcessorDoes) {
  for (uint32_t high = 0; high < 0x10000; ++high)
    for (const uint32_t low : {0x0000u, 0x0fffu, 0x1000u, 0x1001u, 0x2fffu, 0x3000u, 0x3001u, 0x8000u, 0xffffu}) {
      const auto x = std::bit_cast<float>(high << 16 | low);
      if (std::isnan(x)) continue;
      const auto want = float(f16(std::clamp(x, -65504.0f, 65504.0f)));
      ASSERT_EQ(std::bit_cast<uint32_t>(as_f16(x)), std::bit_cast<uint32_t>(want)) << x;
    }
}

TEST(Formats, ByName) {
  for (const Format& f : formats()) {
    EXPECT_EQ(&format(f.id), &f);
    EXPECT_EQ(&format(f.name), &f);
  }
  EXPECT_EQ(formats().size(), 4u);
  try {
    format("nf4dq");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::usage);
    EXPECT_NE(std::string(e.what()).find("did you mean 'nf4_dq'"), std::string::npos) << e.what();
  }
}

TEST(Formats, Parts) {
  int n = 0;
  auto parts = parts_of(FormatId::nf4_dq, {33, 71}, DType::bf16, n);  // 2343 weights, 37 blocks
  EXPECT_EQ(n, 4);
  EXPECT_EQ(parts[0].shape, Shape{1172});
  EXPECT_EQ(parts[1].shape, Shape{37});
  EXPECT_EQ(parts[1].dtype, DType::u8);
  EXPECT_EQ(parts[1].suffix, ".absmax");
  EXPECT_EQ(parts[2].shape, Shape{1});
  EXPECT_EQ(parts[2].suffix, ".nested_absmax");
  EXPECT_EQ(parts[3].shape, Shape{1});
  EXPECT_EQ(parts[3].suffix, ".offset");
  parts = parts_of(FormatId::nf4, {33, 71}, DType::bf16, n);
  EXPECT_EQ(n, 2);
  EXPECT_EQ(parts[1].dtype, DType::f32);
  EXPECT_EQ(bytes_of(FormatId::nf4, {33, 71}, DType::bf16), 1280 + 256);
  EXPECT_EQ(bytes_of(FormatId::dense, {33, 71}, DType::bf16), 4864);
}

TEST(Formats, BitsOfAWeight) {
  const Shape big{8192, 28672};
  const double count = double(big.count());
  EXPECT_NEAR(8.0 * double(raw_bytes(FormatId::nf4_dq, big, DType::bf16)) / count, 4.126953, 1e-6);
  EXPECT_EQ(8.0 * double(raw_bytes(FormatId::nf4, big, DType::bf16)) / count, 4.5);
}

TEST(Formats, Llama70bLayer) {
  const Shape shapes[] = {{8192, 8192}, {1024, 8192}, {1024, 8192}, {8192, 8192}, {28672, 8192}, {28672, 8192}, {8192, 28672}};
  int64_t layer = 0;
  for (const Shape& s : shapes) layer += bytes_of(FormatId::nf4_dq, s, DType::bf16);
  EXPECT_NEAR(double(layer) / double(1 << 20), 420.9, 0.1);
  EXPECT_NEAR(80.0 * double(layer) / double(1 << 30), 32.89, 0.01);
}

TEST(Formats, WrongPartsAreRefused) {
  Rig rig;
  Weight w = rig.take_weight(FormatId::nf4, {4, 64});
  EXPECT_NO_THROW(check_parts(w));
  w.parts[1] = rig.take(DType::f32, {5});
  EXPECT_THROW(check_parts(w), Error);
  w.parts[1] = rig.take(DType::u8, {4});
  EXPECT_THROW(check_parts(w), Error);
  w.parts[1] = {};
  EXPECT_THROW(check_parts(w), Error);
}

TEST(Dense, ConvertsBothWays) {
  for (const DType stored : {DType::f32, DType::bf16, DType::f16})
    for (const DType given : {DType::f32, DType::bf16, DType::f16}) {
      Rig rig;
      const Tensor x = rig.take(given, {13, 77}), back = rig.take(DType::f32, {13, 77});
      testing::fill_normal(x, 1);
      const Weight w = rig.take_weight(FormatId::dense, x.shape, stored);
      format(FormatId::dense).pack(rig.stream, w, x);
      format(FormatId::dense).unpack(rig.stream, back, w);
      for (int64_t i = 0; i < x.count(); ++i) {
        const float from = float(testing::as_doubles(x.view({x.count()}).rows(i, 1))[0]);
        const float expected = stored == DType::bf16 ? float(bf16(from)) : stored == DType::f16 ? float(f16(from)) : from;
        ASSERT_EQ(back.get<float>()[i], expected) << i;
      }
    }
}

// Whatever is brought at once, the bytes are those of the whole matrix; blocks of 64 cross its rows.
TEST(Formats, StripsOfRowsGiveTheSameBytes) {
  for (const Case& c : cases)
    for (const auto& [n, k] : {std::pair{200, 70}, {131, 333}, {128, 64}, {64, 1}, {3, 65}})
      for (const int64_t at_once : {64, 128}) {
        Rig rig;
        const Tensor dense = rig.take(DType::f32, {n, k}), strip = rig.take(DType::f32, {at_once, k});
        testing::fill_normal(dense, 1, 0.05f);
        const Weight whole = rig.take_weight(c.id, {n, k}, c.dense), strips = rig.take_weight(c.id, {n, k}, c.dense);
        format(c.id).pack(rig.stream, whole, dense);
        format(c.id).pack(rig.stream, strips, {at_once, [&](int64_t first, int64_t rows) {
          const Tensor some = strip.rows(0, rows);
          rig.device->synchronize();
          std::memcpy(some.data, dense.rows(first, rows).data, size_t(some.bytes()));
          return some;
        }});
        for (size_t i = 0; i < whole.parts.size() && whole.parts[i]; ++i)
          EXPECT_EQ(testing::bytes_of(whole.parts[i]), testing::bytes_of(strips.parts[i])) << format(c.id).name << " " << n << "x" << k << " part " << i;
      }
}

void multiply_few(Rig& rig, Tensor y, Tensor x, const Weight& w) { format(w.format).multiply_few(rig.stream, x, std::array{FewProduct{y, &w}}); }

// y is the double-precision product of the unpacked weight, within the rounding of f32 sums.
TEST(MultiplyFew, IsUnpackAndMultiply) {
  for (const Case& c : cases)
    for (const auto& [n, k] : {std::pair{37, 128}, {5, 64}, {19, 4160}, {18, 200}, {3, 65}, {7, 1}, {6, 4097}, {9, 8384}, {33, 2304}})
      for (const DType type : {DType::f32, DType::bf16})
        for (int64_t t = 1; t <= most_few_tokens; ++t) {
          Rig rig;
          const Tensor dense = rig.take(DType::f32, {n, k}), x = rig.take(type, {t, k}), y = rig.take(DType::f32, {t, n});
          testing::fill_normal(dense, 1, 0.05f);
          testing::fill_normal(x, 2);
          const Weight w = rig.take_weight(c.id, {n, k}, c.dense);
          format(c.id).pack(rig.stream, w, dense);
          format(c.id).unpack(rig.stream, dense, w);
          multiply_few(rig, y, x, w);
          const auto a = testing::as_doubles(x), b = testing::as_doubles(dense);
          for (int64_t i = 0; i < t; ++i)
            for (int64_t j = 0; j < n; ++j) {
              double sum = 0, size = 0;
              for (int64_t l = 0; l < k; ++l) {
                const double term = a[size_t(i * k + l)] * b[size_t(j * k + l)];
                sum += term;
                size += term * term;
              }
              // Beside bf16 the sixteen values of a code are taken as bf16.
              const bool rounded = x.dtype == DType::bf16 && (c.id == FormatId::nf4 || c.id == FormatId::nf4_dq);
              ASSERT_NEAR(y.get<float>()[i * n + j], sum, (rounded ? 8e-3 : 1e-5) * std::sqrt(size) + 1e-12)
                  << format(c.id).name << " " << n << "x" << k << " token " << i << " of " << t << " row " << j;
            }
        }
}

// Several products of one x, added to what lies there or elsewhere, are each as it is alone.
TEST(MultiplyFew, ProductsThatShareTheirTokens) {
  for (const Case& c : cases)
    for (const int64_t k : {128, 4096, 200})
      for (const int64_t t : {1, 3, 8, 16}) {
        Rig rig;
        const Tensor x = rig.take(DType::bf16, {t, k});
        testing::fill_normal(x, 2);
        std::array<Weight, most_few_products> w;
        std::array<FewProduct, most_few_products> products;
        std::vector<std::vector<double>> expected;
        for (size_t i = 0; i < w.size(); ++i) {
          const int64_t n = std::array{40, 7, 33}[i];
          const Tensor dense = rig.take(DType::f32, {n, k}), alone = rig.take(DType::f32, {t, n}), plus = rig.take(DType::f32, {t, n});
          testing::fill_normal(dense, 3 + i, 0.05f);
          testing::fill_normal(plus, 7 + i);
          w[i] = rig.take_weight(c.id, {n, k}, c.dense);
          format(c.id).pack(rig.stream, w[i], dense);
          multiply_few(rig, alone, x, w[i]);
          const Tensor y = i == 1 ? plus : rig.take(DType::f32, {t, n});
          products[i] = {y, &w[i], i == 2 ? Tensor{} : plus};
          auto sums = testing::as_doubles(alone);
          if (i < 2)
            for (size_t j = 0; j < sums.size(); ++j) sums[j] = double(float(sums[j]) + plus.get<float>()[j]);
          expected.push_back(sums);
        }
        format(c.id).multiply_few(rig.stream, x, products);
        for (size_t i = 0; i < w.size(); ++i) EXPECT_EQ(testing::as_doubles(products[i].y), expected[i]) << format(c.id).name << " " << k << " product " << i;
      }
}

// A token's numbers depend neither on its company (on cuda: where it has some), nor on the rows beside, nor on the threads; narrower outputs are the rounded sums.
TEST(MultiplyFew, OneOrderOfSums) {
  const int threads = thread_count();
  for (const Case& c : cases)
    for (const auto& [type, k] : {std::pair{DType::f32, 448}, {DType::f32, 333}, {DType::bf16, 448}, {DType::bf16, 333}}) {
      Rig rig;
      constexpr int64_t n = 53, t = 11;
      const Tensor dense = rig.take(DType::f32, {n, k}), x = rig.take(type, {t, k}), y = rig.take(DType::f32, {t, n});
      testing::fill_normal(dense, 1, 0.05f);
      testing::fill_normal(x, 2);
      const Weight w = rig.take_weight(c.id, {n, k}, c.dense);
      format(c.id).pack(rig.stream, w, dense);
      set_thread_count(1);
      multiply_few(rig, y, x, w);
      const auto all = testing::as_doubles(y);
      for (const int count : {2, 3}) {
        set_thread_count(count);
        multiply_few(rig, y, x, w);
        EXPECT_EQ(testing::as_doubles(y), all) << count << " threads";
      }
      for (int64_t first = 0; first < t; ++first)
        for (int64_t m = 1; first + m <= t; ++m) {
          multiply_few(rig, y.rows(0, m), x.rows(first, m), w);
          const double apart = m == 1 && type == DType::bf16 && tests_run_on_cuda() ? 1e-4 : 0;  // there one token alone is a kernel of its own
          for (int64_t i = 0; i < m * n; ++i) ASSERT_NEAR(double(y.get<float>()[i]), all[size_t(first * n + i)], apart) << m << " tokens";
        }
      const Tensor narrow = rig.take(DType::bf16, {t, n});
      multiply_few(rig, narrow, x, w);
      for (int64_t i = 0; i < t * n; ++i) ASSERT_EQ(narrow.get<bf16>()[i].bits, bf16(float(all[size_t(i)])).bits);
    }
  set_thread_count(threads);
}

// Readers of files decode any piece of a matrix to what the whole unpacks to.
TEST(Formats, DecodingAPieceIsUnpacking) {
  for (const Case& c : cases)
    for (const Shape& shape : {Shape{7, 130}, Shape{5, 27}}) {
      Rig rig;
      const Tensor dense = rig.take(DType::f32, shape);
      testing::fill_normal(dense, 1, 0.05f);
      const Weight w = rig.take_weight(c.id, shape, c.dense);
      format(c.id).pack(rig.stream, w, dense);
      format(c.id).unpack(rig.stream, dense, w);
      for (const auto& [first, n] : {std::pair<int64_t, int64_t>{0, shape.count()}, {1, 70}, {shape.count() - 3, 3}, {64, 64}, {5, 0}}) {
        std::vector<float> piece(static_cast<size_t>(n));
        format(c.id).decode(piece.data(), w, first, n);
        for (int64_t i = 0; i < n; ++i) ASSERT_EQ(piece[size_t(i)], dense.get<float>()[first + i]) << format(c.id).name << " " << first + i;
      }
    }
}

TEST(Int8, RowsOfNothingAndOfWhatF16CannotHold) {
  Rig rig;
  const Tensor x = rig.take(DType::f32, {4, 3}), back = rig.take(DType::f32, {4, 3});
  const float numbers[] = {0, 0, 0, 1e30f, -1e30f, 1, -1, 0.5f, 0.25f, 1e-30f, -1e-30f, 0};
  std::copy_n(numbers, 12, x.get<float>());
  const Weight w = rig.take_weight(FormatId::int8, x.shape);
  format(FormatId::int8).pack(rig.stream, w, x);
  format(FormatId::int8).unpack(rig.stream, back, w);
  const float expected[] = {0, 0, 0, 65504, -65504, 0, -1, 64 / 127.0f, 32 / 127.0f, 0, 0, 0};
  for (int i = 0; i < 12; ++i) EXPECT_FLOAT_EQ(back.get<float>()[i], expected[i]) << i;
}

TEST(MultiplyFew, ShapesAreChecked) {
  Rig rig(true);
  const Weight w = rig.take_weight(FormatId::nf4, {10, 64});
  const auto product = [&](Shape y, Shape x) {
    multiply_few(rig, rig.take(DType::f32, y), rig.take(DType::f32, x), w);
  };
  EXPECT_NO_THROW(product({8, 10}, {8, 64}));
  EXPECT_THROW(product({17, 10}, {17, 64}), Error);
  EXPECT_THROW(product({2, 11}, {2, 64}), Error);
  EXPECT_THROW(product({2, 10}, {2, 63}), Error);
  EXPECT_THROW(product({1, 10}, {2, 64}), Error);
}

// A phantom's memory may not be touched: reading or writing it would end the test program.
TEST(Formats, PhantomRunsTheSameAndTouchesNothing) {
  const auto go = [](Rig& rig) {
    for (const Case& c : cases)
      for (const Shape& s : {Shape{40, 192}, Shape{33, 70}}) {
        const Scope scope(rig.memory);
        const Tensor dense = rig.take(DType::bf16, s), x = rig.take(DType::bf16, {3, s[1]}), y = rig.take(DType::bf16, {3, s[0]});
        const Weight w = rig.take_weight(c.id, s, c.dense);
        format(c.id).pack(rig.stream, w, dense);
        format(c.id).unpack(rig.stream, dense, w);
        multiply_few(rig, y, x, w);
      }
  };
  Rig real, phantom(true);
  go(real);
  go(phantom);
  EXPECT_EQ(difference(real.ledger, phantom.ledger), "");
  EXPECT_GT(real.ledger.entries().size(), 60u);
}

}  // namespace thimble::quant
