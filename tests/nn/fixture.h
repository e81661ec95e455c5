// What tests of whole models share: a rank on the cpu in float32, a model from a folder, tokens on the device, comparison with a golden.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "device_under_test.h"
#include "golden_folder.h"
#include "models/registry.h"
#include "nn/decoder.h"
#include "store/adapter_files.h"
#include "store/safetensors.h"

namespace thimble::nn {

inline const fs::path golden = golden_folder();
inline const fs::path shared_data = fs::path(THIMBLE_SOURCE_DIR) / "../shared/data";

// The goldens of tests/golden/families.py, by name.
inline std::vector<std::string> golden_families() {
  std::vector<std::string> all;
  for (const auto& entry : fs::directory_iterator(golden / "families")) all.push_back(entry.path().filename().string());
  std::sort(all.begin(), all.end());
  return all;
}

inline DeviceSpec f32_spec() {
  DeviceSpec spec = this_cpu();
  spec.compute = DType::f32;
  return spec_under_test(spec);
}

// max |a - b| / max |b|
inline double relative(const float* a, const float* b, int64_t n) {
  double worst = 0, scale = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    worst = std::max(worst, std::fabs(double(a[i]) - double(b[i])));
    scale = std::max(scale, std::fabs(double(b[i])));
  }
  return worst / std::max(scale, 1e-30);
}
inline double relative(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.count(), b.count());
  return relative(a.get<float>(), b.get<float>(), b.count());
}

struct Machine {
  std::unique_ptr<Device> device = device_under_test(f32_spec());
  comm::Rank rank{*device, {int64_t{256} << 20, int64_t{64} << 20, 0}};

  Tensor vector(std::initializer_list<float> values) {
    const Tensor t = rank.memory.take(Use::batch, "test", DType::f32, {int64_t(values.size())});
    std::copy(values.begin(), values.end(), t.get<float>());
    return t;
  }
  // Rows of `ids` (B, T) as documents of their own; `targets` -100 becomes -1.
  Tokens tokens(const Tensor& ids, const Tensor& targets) {
    const int64_t rows = ids.shape[0], length = ids.shape[1], n = rows * length;
    const auto take = [&] { return rank.memory.take(Use::batch, "test", DType::i32, {n}); };
    Tokens t{take(), take(), take(), take()};
    t.length = length;
    for (int64_t i = 0; i < n; ++i) {
      t.ids.get<int32_t>()[i] = ids.get<int32_t>()[i];
      t.targets.get<int32_t>()[i] = std::max(-1, targets.get<int32_t>()[i]);
      t.positions.get<int32_t>()[i] = int32_t(i % length);
      t.start.get<int32_t>()[i] = int32_t(i / length * length);
    }
    return t;
  }
};

inline int64_t target_count(const Tensor& targets) {
  int64_t n = 0;
  for (int64_t i = 0; i < targets.count(); ++i) n += targets.get<int32_t>()[i] >= 0;
  return n;
}

}  // namespace thimble::nn
