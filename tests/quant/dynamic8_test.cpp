// The dynamic maps, bit for bit those of bitsandbytes 0.50.2, and the choice of the nearest against its bisection, written out here.
#include "quant/dynamic8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/philox.h"

namespace thimble::quant {
namespace {

uint64_t fnv(const std::array<float, 256>& values) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const float v : values)
    for (int i = 0; i < 4; ++i) h = (h ^ ((std::bit_cast<uint32_t>(v) >> (8 * i)) & 0xff)) * 0x100000001b3u;
  return h;
}

// The search of bitsandbytes' kernels: seven halvings from the middle, then the nearer of the last two neighbours.
int by_bisection(const DynamicMap& map, float x) {
  int pivot = 127, above = 255, below = 0;
  for (int i = 64; i > 0; i /= 2) {
    if (x > map[pivot]) below = pivot, pivot += i;
    else above = pivot, pivot -= i;
  }
  if (x > map[pivot]) return x > (map[above] + map[pivot]) * 0.5f ? above : pivot;
  return x < (map[below] + map[pivot]) * 0.5f ? below : pivot;
}

int by_brute_force(const DynamicMap& map, double x) {
  int best = 0;
  for (int i = 1; i < 256; ++i)
    if (std::abs(double(map[i]) - x) < std::abs(double(map[best]) - x)) best = i;
  return best;
}

}  // namespace

TEST(DynamicMap, IsTheReferences) {
  EXPECT_EQ(fnv(signed_map().values()), 0xd677f22a96665bc4u);
  EXPECT_EQ(fnv(unsigned_map().values()), 0x43811b16730a873eu);
}

TEST(DynamicMap, KnownValues) {
  const DynamicMap &s = signed_map(), &u = unsigned_map();
  EXPECT_FLOAT_EQ(s[0], -0.99296874f);
  EXPECT_FLOAT_EQ(s[1], -0.97890627f);
  EXPECT_FLOAT_EQ(s[62], -0.12109375f);
  EXPECT_FLOAT_EQ(s[126], -5.5e-7f);
  EXPECT_EQ(s[127], 0.0f);
  EXPECT_FALSE(std::signbit(s[127]));
  EXPECT_FLOAT_EQ(s[129], 3.25e-6f);
  EXPECT_FLOAT_EQ(s[160], 0.01421875f);
  EXPECT_FLOAT_EQ(s[254], 0.99296874f);
  EXPECT_EQ(s[255], 1.0f);
  EXPECT_EQ(u[0], 0.0f);
  EXPECT_FLOAT_EQ(u[1], 3.25e-7f);
  EXPECT_FLOAT_EQ(u[64], 0.012109375f);
  EXPECT_FLOAT_EQ(u[127], 0.103515625f);
  EXPECT_FLOAT_EQ(u[192], 0.560546875f);
  EXPECT_EQ(u[255], 1.0f);
  EXPECT_EQ(s.zero(), 127);
  EXPECT_EQ(u.zero(), 0);
}

TEST(DynamicMap, EveryValueIsItsOwnNearest) {
  for (const DynamicMap* map : {&signed_map(), &unsigned_map()})
    for (int i = 0; i < 256; ++i) EXPECT_EQ(map->nearest((*map)[i]), i);
}

TEST(DynamicMap, NearestIsTheReferencesAroundEveryThreshold) {
  for (const DynamicMap* map : {&signed_map(), &unsigned_map()})
    for (int i = 0; i < 255; ++i) {
      const float middle = ((*map)[i] + (*map)[i + 1]) * 0.5f;
      EXPECT_EQ(map->nearest(middle) % 2, 0) << "a tie goes to the even code";
      float x = middle;
      for (int k = 0; k < 4; ++k) x = std::nextafter(x, -2.0f);
      for (int k = 0; k < 9; ++k, x = std::nextafter(x, 2.0f)) EXPECT_EQ(map->nearest(x), by_bisection(*map, x)) << i << " " << x;
    }
}

TEST(DynamicMap, NearestIsTheReferencesOverAllMagnitudes) {
  int64_t checked = 0;
  for (uint32_t bits = 0; bits <= std::bit_cast<uint32_t>(1.0f); bits += 1237, ++checked) {
    const float x = std::bit_cast<float>(bits);
    ASSERT_EQ(signed_map().nearest(x), by_bisection(signed_map(), x)) << x;
    ASSERT_EQ(signed_map().nearest(-x), by_bisection(signed_map(), -x)) << -x;
    ASSERT_EQ(unsigned_map().nearest(x), by_bisection(unsigned_map(), x)) << x;
  }
  EXPECT_GT(checked, 800000);
}

TEST(DynamicMap, NearestIsNearest) {
  for (int i = 0; i < 20000; ++i) {
    const float x = 2 * uniform_at(3, 1, uint64_t(i)) - 1;
    for (const DynamicMap* map : {&signed_map(), &unsigned_map()}) {
      if (map == &unsigned_map() && x < 0) continue;
      const double chosen = std::abs(double((*map)[map->nearest(x)]) - double(x));
      const double least = std::abs(double((*map)[by_brute_force(*map, x)]) - double(x));
      ASSERT_LE(chosen, least + 1e-7) << x;  // midpoints are rounded to f32
    }
  }
}

TEST(DynamicMap, OddOnes) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const DynamicMap* map : {&signed_map(), &unsigned_map()}) {
    EXPECT_EQ(map->nearest(nan), 0);
    EXPECT_EQ(map->nearest(-nan), 0);
    EXPECT_EQ(map->nearest(inf), 255);
    EXPECT_EQ(map->nearest(-inf), 0);
    EXPECT_EQ(map->nearest(-0.0f), map->zero());
  }
  EXPECT_EQ(unsigned_map().nearest(-0.5f), 0);
}

TEST(LargestMagnitude, IgnoresNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float x[] = {1, -3, nan, 2, -nan, 0.5f, 0, 1, 2.5f};
  EXPECT_EQ(largest_magnitude(x, 9), 3);
  EXPECT_EQ(largest_magnitude(x, 1), 1);
  EXPECT_EQ(largest_magnitude(x, 0), 0);
}

}  // namespace thimble::quant
