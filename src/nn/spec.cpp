// RoPE's frequencies as transformers computes them (modeling_rope_utils): powers in f32, the blends of long and short waves.
#include "nn/spec.h"

#include <algorithm>
#include <cmath>

namespace thimble::nn {

bool StoredAs::keeps(std::string_view module) const {
  return std::any_of(kept.begin(), kept.end(), [&](const std::string& name) {
    return module.ends_with(name) || (module.starts_with(name) && module.substr(name.size()).starts_with('.'));
  });
}
namespace {

// Of YaRN: pairs below `low` keep their frequency, those from `high` on are divided by the factor.
struct Ramp {
  double low, high;
  Ramp(const RopeSpec& rope, int64_t dims) {
    const auto turns_at = [&](double rotations) {  // the pair that turns so often over the original length
      return double(dims) * std::log(double(rope.original_positions) / (rotations * 2 * M_PI)) / (2 * std::log(rope.theta));
    };
    low = turns_at(rope.beta_fast), high = turns_at(rope.beta_slow);
    if (rope.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, double(dims - 1));
    if (low == high) high += 0.001;
  }
  float at(int64_t pair) const { return std::clamp((float(pair) - float(low)) / float(high - low), 0.0f, 1.0f); }
};

float llama3(const RopeSpec& rope, float f) {
  const double wave = 2 * M_PI / double(f), original = double(rope.original_positions);
  const double smooth = (original / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  if (wave > original / rope.low_freq_factor) return float(f / rope.factor);
  if (wave >= original / rope.high_freq_factor) return float((1 - smooth) * f / rope.factor + smooth * f);
  return f;
}

// Of dynamic NTK: the base grows with the length beyond the original one.
float base_for(const RopeSpec& rope, int64_t dims, int64_t length) {
  if (rope.kind != RopeSpec::Kind::dynamic) return float(rope.theta);
  const auto positions = float(std::max(length, rope.original_positions));
  const float stretch = float(rope.factor) * positions / float(rope.original_positions) - float(rope.factor - 1);
  return float(rope.theta) * std::pow(stretch, float(double(dims) / double(dims - 2)));
}

}  // namespace

bool RopeSpec::same_for(int64_t a, int64_t b) const {
  if (kind == Kind::dynamic) return std::max(a, original_positions) == std::max(b, original_positions);
  if (kind == Kind::longrope) return (a > original_positions) == (b > original_positions);
  return true;
}

std::vector<float> inverse_frequencies(const RopeSpec& rope, int64_t head_dim, int64_t length) {
  const int64_t pairs = rope.pairs(head_dim), dims = 2 * pairs;
  const float base = base_for(rope, dims, length);
  const Ramp ramp(rope, dims);
  std::vector<float> inv;
  for (int64_t i = 0; i < pairs; ++i) {
    const float power = std::pow(base, float(2 * i) / float(dims)), plain = 1.0f / power;
    switch (rope.kind) {
      case RopeSpec::Kind::plain: case RopeSpec::Kind::dynamic: inv.push_back(plain); break;
      case RopeSpec::Kind::linear: inv.push_back(float(plain / rope.factor)); break;
      case RopeSpec::Kind::llama3: inv.push_back(llama3(rope, plain)); break;
      case RopeSpec::Kind::yarn: inv.push_back(1.0f / (float(rope.factor) * power) * ramp.at(i) + plain * (1.0f - ramp.at(i))); break;
      case RopeSpec::Kind::longrope: {
        const auto& factors = length > rope.original_positions ? rope.long_factor : rope.short_factor;
        inv.push_back(1.0f / (float(factors[size_t(i)]) * power));
        break;
      }
    }
  }
  return inv;
}

}  // namespace thimble::nn
