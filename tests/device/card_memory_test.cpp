// What a card has left, as the driver says; nothing where there is no card.
#include "device/card_memory.h"

#include <gtest/gtest.h>

#include "device_under_test.h"

namespace thimble {
namespace {

TEST(CardMemory, WithoutACardNothingIsKnown) {
  EXPECT_FALSE(CardMemory("").free_bytes().has_value());
  EXPECT_FALSE(CardMemory("no such address").free_bytes().has_value());
}

#ifdef THIMBLE_CUDA
TEST(CardMemory, SeesWhatAReservationTakes) {
  if (!tests_run_on_cuda()) GTEST_SKIP() << "needs a card";
  const DeviceSpec spec = measured_cuda();
  EXPECT_GT(spec.overhead, int64_t{64} << 20);
  EXPECT_LT(spec.overhead, int64_t{3} << 30);
  EXPECT_LE(spec.free, spec.memory);
  const CardMemory card(spec.address);
  const auto before = card.free_bytes();
  if (!before) GTEST_SKIP() << "NVML does not answer";
  const auto device = cuda_device(spec);
  const Storage held = device->reserve(Tier::device, int64_t{512} << 20);
  EXPECT_GE(*before - card.free_bytes().value_or(*before), int64_t{512} << 20);
}
#endif

}  // namespace
}  // namespace thimble
