// RoPE's frequencies beside numbers of transformers' modeling_rope_utils, at the original length and beyond.
#include <gtest/gtest.h>

#include <cmath>

#include "nn/spec.h"

namespace thimble::nn {
namespace {

void expect_near(const std::vector<float>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 3e-7 * want[i]) << i;
}

TEST(RopeFrequencies, Linear) {
  const RopeSpec rope{.kind = RopeSpec::Kind::linear, .factor = 2.5};
  expect_near(inverse_frequencies(rope, 16, 0), {0.40000001, 0.1264911, 0.039999999, 0.012649111, 0.0039999997, 0.0012649111, 0.00040000002, 0.00012649111});
}

TEST(RopeFrequencies, Dynamic) {
  const RopeSpec rope{.kind = RopeSpec::Kind::dynamic, .factor = 2, .original_positions = 128};
  expect_near(inverse_frequencies(rope, 16, 100), {1, 0.31622776, 0.1, 0.031622779, 0.0099999998, 0.0031622779, 0.001, 0.00031622779});
  expect_near(inverse_frequencies(rope, 16, 128), {1, 0.31622776, 0.1, 0.031622779, 0.0099999998, 0.0031622779, 0.001, 0.00031622779});
  expect_near(inverse_frequencies(rope, 16, 129), {1, 0.31552812, 0.099558011, 0.03141335, 0.0099117961, 0.0031274506, 0.00098679867, 0.00031136273});
  expect_near(inverse_frequencies(rope, 16, 1000), {1, 0.21555482, 0.046463877, 0.010015513, 0.0021588921, 0.00046535957, 0.0001003105, 2.1622413e-05});
}

TEST(RopeFrequencies, Llama3) {
  const RopeSpec rope{.kind = RopeSpec::Kind::llama3, .factor = 8, .original_positions = 64};
  expect_near(inverse_frequencies(rope, 16, 0), {1, 0.24438459, 0.013042256, 0.0039528473, 0.00125, 0.00039528473, 0.00012500001, 3.9528473e-05});
}

TEST(RopeFrequencies, Yarn) {
  const RopeSpec rope{.kind = RopeSpec::Kind::yarn, .factor = 4, .original_positions = 32};
  expect_near(inverse_frequencies(rope, 16, 0), {1, 0.19764236, 0.025, 0.0079056947, 0.0024999999, 0.00079056947, 0.00025000001, 7.9056947e-05});
}

TEST(RopeFrequencies, YarnWithoutTruncation) {
  const RopeSpec rope{.kind = RopeSpec::Kind::yarn, .factor = 4, .original_positions = 32, .beta_fast = 8, .beta_slow = 0.5, .truncate = false};
  expect_near(inverse_frequencies(rope, 16, 0), {1, 0.19858353, 0.02559525, 0.0079056947, 0.0024999999, 0.00079056947, 0.00025000001, 7.9056947e-05});
}

TEST(RopeFrequencies, LongRope) {
  const RopeSpec rope{.kind = RopeSpec::Kind::longrope, .original_positions = 32, .short_factor = {1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6},
                      .long_factor = {1.0, 2.0, 3.0, 4.0, 5.5, 6.0, 7.0, 8.0}};
  expect_near(inverse_frequencies(rope, 16, 20), {1, 0.31622776, 0.090909094, 0.026352312, 0.0076923077, 0.0022587699, 0.00066666666, 0.00019764237});
  expect_near(inverse_frequencies(rope, 16, 32), {1, 0.31622776, 0.090909094, 0.026352312, 0.0076923077, 0.0022587699, 0.00066666666, 0.00019764237});
  expect_near(inverse_frequencies(rope, 16, 33), {1, 0.15811388, 0.033333335, 0.0079056947, 0.0018181818, 0.00052704633, 0.00014285714, 3.9528473e-05});
}

TEST(RopeFrequencies, WhichLengthsShareThem) {
  const RopeSpec plain, dynamic{.kind = RopeSpec::Kind::dynamic, .factor = 2, .original_positions = 32}, longrope{.kind = RopeSpec::Kind::longrope, .original_positions = 32};
  EXPECT_TRUE(plain.same_for(1, 1000) && !plain.follows_length());
  EXPECT_TRUE(dynamic.same_for(1, 32) && !dynamic.same_for(32, 33) && !dynamic.same_for(40, 41) && dynamic.follows_length());
  EXPECT_TRUE(longrope.same_for(1, 32) && !longrope.same_for(32, 33) && longrope.same_for(40, 4000) && longrope.follows_length());
}

}  // namespace
}  // namespace thimble::nn
