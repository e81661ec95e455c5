// What every test of an op shares: a small world (device, arena, ledger, stream), random tensors, float64 references, and the four
// questions asked of each op: does it agree, is its gradient right, does a phantom do the same, do threads change nothing.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/philox.h"
#include "base/threads.h"
#include "device/stream.h"
#include "device_under_test.h"

namespace thimble::test {

using Numbers = std::vector<double>;

inline double read_number(const std::byte* p, DType t, int64_t i) {
  switch (t) {
    case DType::f32: return reinterpret_cast<const float*>(p)[i];
    case DType::bf16: return float(reinterpret_cast<const bf16*>(p)[i]);
    case DType::f16: return float(reinterpret_cast<const f16*>(p)[i]);
    case DType::i32: return reinterpret_cast<const int32_t*>(p)[i];
    case DType::u8: return reinterpret_cast<const uint8_t*>(p)[i];
    case DType::i8: return reinterpret_cast<const int8_t*>(p)[i];
  }
  return 0;
}

inline void write_number(std::byte* p, DType t, int64_t i, double x) {
  switch (t) {
    case DType::f32: reinterpret_cast<float*>(p)[i] = float(x); break;
    case DType::bf16: reinterpret_cast<bf16*>(p)[i] = bf16(float(x)); break;
    case DType::f16: reinterpret_cast<f16*>(p)[i] = f16(float(x)); break;
    case DType::i32: reinterpret_cast<int32_t*>(p)[i] = int32_t(x); break;
    case DType::u8: reinterpret_cast<uint8_t*>(p)[i] = uint8_t(x); break;
    case DType::i8: reinterpret_cast<int8_t*>(p)[i] = int8_t(x); break;
  }
}

// A device with one arena and one stream. Filling a tensor does nothing on a phantom, so one body of test code runs on both.
class World {
 public:
  explicit World(std::unique_ptr<Device> device = device_under_test(), int64_t capacity = int64_t{16} << 20)
      : device_(std::move(device)), arena_(*device_, Tier::device, device_->kind() == DeviceKind::cuda ? std::max(capacity, int64_t{16} << 20) : capacity, ledger_), stream_{*device_, ledger_, arena_} {}
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  operator Stream&() { return stream_; }
  Stream& stream() { return stream_; }
  Ledger& ledger() { return ledger_; }
  bool is_phantom() const { return device_->is_phantom(); }

  Tensor empty(DType t, Shape s) { return arena_.take(Use::activations, "test", t, s); }
  Tensor filled(DType t, Shape s, double value) { return from(t, s, Numbers(size_t(s.count()), value)); }
  Tensor from(DType t, Shape s, const Numbers& x) {
    const Tensor y = empty(t, s);
    write(y, x);
    return y;
  }
  Tensor ints(const std::vector<int32_t>& x) { return from(DType::i32, {int64_t(x.size())}, Numbers(x.begin(), x.end())); }
  // mean + scale * N(0, 1), rounded to t. Each `draw` is another sequence.
  Tensor normal(DType t, Shape s, uint64_t draw, double scale = 1, double mean = 0) {
    Numbers x(is_phantom() ? 0 : size_t(s.count()));
    for (size_t i = 0; i < x.size(); ++i) x[i] = mean + scale * double(normal_at(1234, draw, i));
    return from(t, s, x);
  }

  void write(Tensor y, const Numbers& x) {
    if (is_phantom() || y.count() == 0) return;
    check(int64_t(x.size()) == y.count(), "as many numbers as the tensor holds");
    std::vector<std::byte> host(size_t(y.bytes()));
    for (int64_t i = 0; i < y.count(); ++i) write_number(host.data(), y.dtype, i, x[size_t(i)]);
    device_->wait(device_->copy(Lane::in, y.data, host.data(), y.bytes(), device_->now()));
    device_->synchronize();
  }
  std::vector<std::byte> bytes(Tensor x) {
    std::vector<std::byte> host(size_t(x.bytes()));
    if (is_phantom() || x.count() == 0) return host;
    device_->wait(device_->copy(Lane::out, host.data(), x.data, x.bytes(), device_->now()));
    device_->synchronize();
    return host;
  }
  Numbers read(Tensor x) {
    const auto host = bytes(x);
    Numbers y(size_t(x.count()));
    for (int64_t i = 0; i < x.count(); ++i) y[size_t(i)] = read_number(host.data(), x.dtype, i);
    return y;
  }

 private:
  std::unique_ptr<Device> device_;
  Ledger ledger_;
  Arena arena_;
  Stream stream_;
};

// max |a - b| / max |b|; infinite when anything is not finite.
inline double relative_error(const Numbers& a, const Numbers& b) {
  double worst = 0, largest = 1e-30;
  if (a.size() != b.size()) return INFINITY;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    worst = std::max(worst, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

// Normalised mean square error: |a - b|^2 / |b|^2.
inline double nmse(const Numbers& a, const Numbers& b) {
  double difference = 0, size = 1e-60;
  if (a.size() != b.size()) return INFINITY;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::isfinite(difference) ? difference / size : INFINITY;
}

// One rounding to the type, with room for the op's own sums.
inline double tolerance(DType t) { return t == DType::f32 ? 2e-6 : t == DType::bf16 ? 1.0 / 128 : 1.0 / 1024; }

// d loss / d x by central differences of a float64 loss that reads x.
inline Numbers central_differences(Numbers& x, const std::function<double()>& loss, double step = 1e-5) {
  Numbers g(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + step;
    const double up = loss();
    x[i] = kept - step;
    const double down = loss();
    x[i] = kept;
    g[i] = (up - down) / (2 * step);
  }
  return g;
}

inline double dot(const Numbers& a, const Numbers& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// The same calls on the cpu and on its phantom leave the same ledger; the phantom's memory may not be touched (PROT_NONE).
inline void expect_phantom_agrees(const std::function<void(World&)>& calls, DeviceSpec spec = {}) {
  World real(device_under_test(spec)), phantom(phantom_device(spec_under_test(spec)));
  calls(real);
  calls(phantom);
  EXPECT_EQ(difference(real.ledger(), phantom.ledger()), "");
  EXPECT_FALSE(real.ledger().entries().empty());
}

// The tensors that `calls` returns have the same bits on one, two, three and seven threads.
inline void expect_threads_change_nothing(const std::function<std::vector<Tensor>(World&)>& calls) {
  const int before = thread_count();
  std::vector<std::vector<std::byte>> one;
  for (const int threads : {1, 2, 3, 7}) {
    set_thread_count(threads);
    World world;
    std::vector<std::vector<std::byte>> now;
    for (const Tensor& t : calls(world)) now.push_back(world.bytes(t));
    if (threads == 1) one = now;
    EXPECT_TRUE(now == one) << threads << " threads";
  }
  set_thread_count(before);
}

inline std::string label(DType t) { return std::string(name_of(t)); }

}  // namespace thimble::test
