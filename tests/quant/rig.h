// A device with its arenas, real or phantom: what a test of computing rooms needs. The same calls on both must leave equal ledgers.
#pragma once
#include <cstring>
#include <memory>
#include <vector>

#include "base/philox.h"
#include "base/threads.h"
#include "device/stream.h"
#include "device_under_test.h"
#include "quant/weight.h"

namespace thimble::testing {

struct Rig {
  std::unique_ptr<Device> device;
  Ledger ledger;
  Arena memory, scratch;
  Stream stream;

  explicit Rig(bool phantom = false, int64_t capacity = int64_t{4} << 20)
      : device(phantom ? phantom_device(spec_under_test()) : device_under_test()),
        memory(*device, Tier::device, capacity, ledger),
        scratch(*device, Tier::device, capacity / 4, ledger),
        stream{*device, ledger, scratch} {}

  Tensor take(DType t, Shape s) { return memory.take(Use::weights, "test", t, s); }

  quant::Weight take_weight(quant::FormatId id, Shape matrix, DType dense = DType::f32) {
    quant::Weight w{.format = id, .shape = matrix};
    int n = 0;
    const auto parts = quant::parts_of(id, matrix, dense, n);
    for (size_t i = 0; i < size_t(n); ++i) w.parts[i] = take(parts[i].dtype, parts[i].shape);
    return w;
  }
};

// Normal numbers, converted to the tensor's type.
inline void fill_normal(Tensor t, uint64_t stream, float scale = 1) {
  visit_float(t.dtype, [&](auto as) {
    using T = decltype(as);
    for (int64_t i = 0; i < t.count(); ++i) t.get<T>()[i] = T(scale * normal_at(7, stream, uint64_t(i)));
  });
}

inline std::vector<double> as_doubles(Tensor t) {
  std::vector<double> out(size_t(t.count()));
  visit_float(t.dtype, [&](auto as) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = double(float(t.get<decltype(as)>()[i]));
  });
  return out;
}

inline std::vector<std::byte> bytes_of(Tensor t) {
  const auto* p = static_cast<const std::byte*>(t.data);
  return {p, p + t.bytes()};
}

}  // namespace thimble::testing
