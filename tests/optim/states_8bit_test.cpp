// The rules with 8-bit states against ones written from their definitions, element by element in double, with codes found by brute force.
#include "optim/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/dynamic8.h"
#include "quant/rig.h"

namespace thimble::optim {
namespace {

using quant::signed_map;
using quant::unsigned_map;
using testing::Rig;

struct Reference {
  std::vector<double> p, m, v;                // after the step; m and v before they are packed
  std::vector<double> m_absmax, v_absmax;
};

struct Values {
  double rate, b1, b2, eps, decay, scale;
  int t;
};

// One step from the states as they are packed now.
Reference step_by_definition(const Update& u, const Values& s) {
  Reference r;
  const double c1 = 1 - std::pow(s.b1, s.t), c2 = std::sqrt(1 - std::pow(s.b2, s.t));
  for (int64_t i = 0; i < u.param.count(); ++i) {
    double p = u.param.get<float>()[i];
    const double g = u.grad.get<float>()[i];
    double m = double(signed_map()[u.states[0].get<uint8_t>()[i]]) * double(u.states[2].get<float>()[i / 256]);
    double v = double(unsigned_map()[u.states[1].get<uint8_t>()[i]]) * double(u.states[3].get<float>()[i / 256]);
    if (std::isfinite(g)) {
      m = s.b1 * m + (1 - s.b1) * g * s.scale;
      v = s.b2 * v + (1 - s.b2) * g * g * s.scale * s.scale;
      p -= s.rate * c2 / c1 * m / (std::sqrt(v) + c2 * s.eps);
      p *= 1 - s.rate * s.decay;
    } else {
      m = v = 0;
    }
    r.p.push_back(p);
    r.m.push_back(m);
    r.v.push_back(v);
    if (i % 256 == 0) r.m_absmax.push_back(0), r.v_absmax.push_back(0);
    r.m_absmax.back() = std::max(r.m_absmax.back(), std::abs(m));
    r.v_absmax.back() = std::max(r.v_absmax.back(), v);
  }
  return r;
}

int nearest_of(const quant::DynamicMap& map, double x) {
  int best = 0;
  for (int i = 1; i < 256; ++i)
    if (std::abs(double(map[i]) - x) < std::abs(double(map[best]) - x)) best = i;
  return best;
}

int code_of_m(double m, double absmax) {
  const int code = nearest_of(signed_map(), m / absmax);
  if (code < 127 && m >= 0) return m > 0 ? code + 1 : 127;
  if (code >= 127 && m < 0) return code - 1;
  return code;
}

Update take_update(Rig& rig, int64_t count, float decay, OptimizerId id = OptimizerId::adamw_8bit) {
  Update u{.param = rig.take(DType::f32, {count}), .grad = rig.take(DType::f32, {count}), .weight_decay = decay};
  int n = 0;
  const auto states = states_of(id, {count}, n);
  for (size_t i = 0; i < size_t(n); ++i) u.states[i] = rig.take(states[i].dtype, states[i].shape);
  zero_states(rig.stream, id, std::span(&u, 1));
  testing::fill_normal(u.param, 1, 0.1f);
  return u;
}

void step(Rig& rig, const Update& u, const Values& s, OptimizerId id = OptimizerId::adamw_8bit) {
  const Scope scope(rig.memory);
  const Hyper hyper{.beta1 = float(s.b1), .beta2 = float(s.b2), .eps = float(s.eps)};
  const Tensor scalars = rig.take(DType::f32, {scalar_count});
  const auto values = scalars_of(s.t, s.rate, s.scale, hyper);
  std::copy(values.begin(), values.end(), scalars.get<float>());
  update(rig.stream, id, std::span(&u, 1), scalars, hyper);
}

void fill_gradient(Tensor g, int t) {
  for (int64_t i = 0; i < g.count(); ++i)
    g.get<float>()[i] = (i % 50 == t ? 0 : 1) * std::pow(10.0f, -4 * uniform_at(1, 2, uint64_t(i / 256))) *
                        (normal_at(1, 3, uint64_t(i)) + normal_at(1, uint64_t(10 + t), uint64_t(i)));
}

}  // namespace

TEST(AdamW8bit, IsTheDefinition) {
  for (const int64_t count : {4096, 5001}) {
    Rig rig;
    const Update u = take_update(rig, count, 0.02f);
    int64_t off = 0, all = 0;
    for (int t = 1; t <= 10; ++t) {
      fill_gradient(u.grad, t);
      const Values s{.rate = 1e-3, .b1 = 0.9f, .b2 = 0.999f, .eps = 1e-8f, .decay = 0.02f, .scale = t % 2 ? 1.0 : 0.5, .t = t};
      const Reference r = step_by_definition(u, s);
      step(rig, u, s);
      for (int64_t i = 0; i < count; ++i) {
        const size_t k = size_t(i), b = size_t(i / 256);
        ASSERT_NEAR(u.param.get<float>()[i], r.p[k], 1e-7 + 3e-7 * std::abs(r.p[k])) << i << " step " << t;
        ASSERT_NEAR(u.states[2].get<float>()[b], r.m_absmax[b], 1e-6 * r.m_absmax[b]);
        ASSERT_NEAR(u.states[3].get<float>()[b], r.v_absmax[b], 1e-6 * r.v_absmax[b]);
        const int m = u.states[0].get<uint8_t>()[i], v = u.states[1].get<uint8_t>()[i];
        const int m_ref = code_of_m(r.m[k], r.m_absmax[b]), v_ref = nearest_of(unsigned_map(), r.v[k] / r.v_absmax[b]);
        off += (m != m_ref) + (v != v_ref);  // a value within a rounding of a midpoint
        ASSERT_LE(std::abs(m - m_ref), 1) << i << " step " << t;
        ASSERT_LE(std::abs(v - v_ref), 1) << i << " step " << t;
        all += 2;
      }
    }
    EXPECT_LE(double(off), 1e-3 * double(all));
  }
}

// m that is small beside its block's largest rounds to 0 or across it; its code keeps the sign.
TEST(AdamW8bit, CodesKeepTheSign) {
  Rig rig;
  const Update u = take_update(rig, 4096, 0);
  std::fill_n(u.grad.get<float>(), 4096, 0.0f);
  for (int64_t b = 0; b < 16; ++b) {
    float* g = u.grad.get<float>() + 256 * b;
    g[0] = 1;
    g[1] = 1e-7f;    // nearest: 0, which is positive
    g[2] = -1e-7f;   // nearest: 0; kept at the code below
    g[3] = -4e-7f;
    g[4] = 4e-7f;
  }
  step(rig, u, {.rate = 1e-3, .b1 = 0.9f, .b2 = 0.999f, .eps = 1e-8f, .decay = 0, .scale = 1, .t = 1});
  for (int64_t b = 0; b < 16; ++b) {
    const uint8_t* codes = u.states[0].get<uint8_t>() + 256 * b;
    EXPECT_EQ(int(codes[0]), 255);
    EXPECT_EQ(int(codes[1]), 127);
    EXPECT_EQ(int(codes[2]), 126);
    EXPECT_EQ(int(codes[3]), 126);
    EXPECT_EQ(int(codes[4]), 128);
    EXPECT_EQ(int(codes[5]), 127);
  }
}

TEST(AdamW8bit, GradientsThatAreNotFinite) {
  Rig rig;
  const Update u = take_update(rig, 4500, 0.1f);
  const Values s{.rate = 1e-2, .b1 = 0.9f, .b2 = 0.999f, .eps = 1e-8f, .decay = 0.1f, .scale = 1, .t = 1};
  fill_gradient(u.grad, 1);
  step(rig, u, s);
  const auto before = testing::as_doubles(u.param);
  fill_gradient(u.grad, 2);
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float odd[] = {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity};
  for (int64_t i = 0; i < 4500; i += 7) u.grad.get<float>()[i] = odd[i % 3];
  Values second = s;
  second.t = 2;
  step(rig, u, second);
  for (int64_t i = 0; i < 4500; ++i) {
    if (i % 7 == 0) {
      ASSERT_EQ(double(u.param.get<float>()[i]), before[size_t(i)]) << i;
      ASSERT_EQ(int(u.states[0].get<uint8_t>()[i]), 127);
      ASSERT_EQ(int(u.states[1].get<uint8_t>()[i]), 0);
    } else {
      ASSERT_TRUE(std::isfinite(u.param.get<float>()[i]));
      ASSERT_NE(double(u.param.get<float>()[i]), before[size_t(i)]) << i;
    }
  }
  for (const size_t k : {size_t{2}, size_t{3}})
    for (const double a : testing::as_doubles(u.states[k])) ASSERT_TRUE(std::isfinite(a) && a > 0);
}

// Under 4096 elements: f32 moments, bitsandbytes' 32-bit rule (decay after the update).
TEST(AdamW8bit, SmallTensorsKeepF32) {
  Rig rig;
  const Update u = take_update(rig, 300, 0.5f);
  auto p = testing::as_doubles(u.param);
  std::vector<double> m(300), v(300);
  for (int t = 1; t <= 10; ++t) {
    fill_gradient(u.grad, t);
    const Values s{.rate = 1e-2, .b1 = 0.9f, .b2 = 0.999f, .eps = 1e-8f, .decay = 0.5f, .scale = 0.5, .t = t};
    step(rig, u, s);
    const double c1 = 1 - std::pow(s.b1, t), c2 = std::sqrt(1 - std::pow(s.b2, t));
    for (size_t i = 0; i < 300; ++i) {
      const double g = s.scale * double(u.grad.get<float>()[i]);
      m[i] = s.b1 * m[i] + (1 - s.b1) * g;
      v[i] = s.b2 * v[i] + (1 - s.b2) * g * g;
      p[i] = (p[i] - s.rate * c2 / c1 * m[i] / (std::sqrt(v[i]) + c2 * s.eps)) * (1 - s.rate * s.decay);
      ASSERT_NEAR(u.param.get<float>()[i], p[i], 1e-6 * double(t)) << i;
    }
  }
}

TEST(Lion8bit, IsTheDefinition) {
  constexpr auto id = OptimizerId::lion_8bit;
  constexpr double b1 = 0.9f, b2 = 0.99f, decay = 0.02f, rate = 1e-3;
  for (const int64_t count : {4096, 5001}) {
    Rig rig;
    const Update u = take_update(rig, count, 0.02f, id);
    ASSERT_EQ(state_bytes(id, {count}), aligned(count) + aligned((count + 255) / 256 * 4));
    int64_t off = 0, turned = 0;
    for (int t = 1; t <= 10; ++t) {
      fill_gradient(u.grad, t);
      const double scale = t % 2 ? 1.0 : 0.5;
      const auto before = testing::as_doubles(u.param);
      std::vector<double> m, way, largest(size_t((count + 255) / 256));
      for (int64_t i = 0; i < count; ++i) {
        const double g = scale * double(u.grad.get<float>()[i]), old = double(signed_map()[u.states[0].get<uint8_t>()[i]]) * double(u.states[1].get<float>()[i / 256]);
        way.push_back(b1 * old + (1 - b1) * g);
        m.push_back(b2 * old + (1 - b2) * g);
        largest[size_t(i / 256)] = std::max(largest[size_t(i / 256)], std::abs(m.back()));
      }
      step(rig, u, {.rate = rate, .b1 = b1, .b2 = b2, .eps = 1e-8f, .decay = decay, .scale = scale, .t = t}, id);
      for (int64_t i = 0; i < count; ++i) {
        const size_t k = size_t(i);
        const double p = before[k] * (1 - rate * decay) - rate * double((way[k] > 0) - (way[k] < 0));
        const double by = std::abs(u.param.get<float>()[i] - p);
        turned += by > 1e-7 + 3e-7 * std::abs(p);  // its way is a rounding from 0
        ASSERT_LE(by, 2 * rate + 1e-6);
        ASSERT_NEAR(u.states[1].get<float>()[i / 256], largest[size_t(i / 256)], 1e-6 * largest[size_t(i / 256)]);
        const int code = u.states[0].get<uint8_t>()[i], expected = code_of_m(m[k], largest[size_t(i / 256)]);
        off += code != expected;
        ASSERT_LE(std::abs(code - expected), 1) << i << " step " << t;
      }
    }
    EXPECT_LE(off, 10 * count / 1000);
    EXPECT_LE(turned, 10 * count / 10000);
  }
}

// Smaller tensors take the step of Lion itself.
TEST(Lion8bit, SmallTensorsKeepF32) {
  Rig rig;
  const Update small = take_update(rig, 300, 0.5f, OptimizerId::lion_8bit), exact = take_update(rig, 300, 0.5f, OptimizerId::lion);
  for (int t = 1; t <= 5; ++t)
    for (const auto& [u, id] : {std::pair{&small, OptimizerId::lion_8bit}, {&exact, OptimizerId::lion}}) {
      fill_gradient(u->grad, t);
      step(rig, *u, {.rate = 1e-2, .b1 = 0.9f, .b2 = 0.99f, .eps = 1e-8f, .decay = 0.5f, .scale = 0.5, .t = t}, id);
    }
  EXPECT_EQ(testing::bytes_of(small.param), testing::bytes_of(exact.param));
}

}  // namespace thimble::optim
