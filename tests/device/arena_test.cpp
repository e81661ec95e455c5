// The arena as a stack: order, alignment, the last byte, and the message when one more is asked for.
#include "device/arena.h"

#include <gtest/gtest.h>

#include <cstring>

namespace thimble {
namespace {

struct Bench {
  Ledger ledger;
  std::unique_ptr<Device> device = cpu_device();
};

TEST(Arena, TakesInOrderAlignedAndGivesBackToAMark) {
  Bench b;
  Arena arena(*b.device, Tier::device, 64 << 10, b.ledger);
  const Tensor first = arena.take(Use::weights, "first", DType::f32, {3});
  const Tensor second = arena.take(Use::activations, "second", DType::u8, {1});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data) % alignment, 0u);
  EXPECT_EQ(static_cast<std::byte*>(second.data) - static_cast<std::byte*>(first.data), alignment);
  EXPECT_EQ(arena.used(), 2 * alignment);
  const int64_t mark = arena.used();
  const Tensor third = arena.take(Use::scratch, "third", DType::bf16, {129});  // 258 bytes: two units
  EXPECT_EQ(arena.used(), mark + 2 * alignment);
  arena.give_back_to(mark);
  EXPECT_EQ(arena.used(), mark);
  EXPECT_EQ(arena.take(Use::scratch, "again", DType::u8, {5}).data, third.data) << "program order decides addresses";
}

TEST(Arena, ScopesNestAndGiveBackWhenAnErrorUnwinds) {
  Bench b;
  Arena arena(*b.device, Tier::device, 4096, b.ledger);
  arena.take(Use::weights, "kept", DType::u8, {10});
  const int64_t before = arena.used();
  try {
    const Scope outer(arena);
    arena.take(Use::scratch, "outer", DType::u8, {300});
    const Scope inner(arena);
    arena.take(Use::scratch, "inner", DType::u8, {300});
    throw Error("a step failed");
  } catch (const Error&) {
  }
  EXPECT_EQ(arena.used(), before);
  EXPECT_EQ(b.ledger.peak(Tier::device), before + 4 * alignment);
  EXPECT_EQ(b.ledger.in_use(Tier::device), before);
}

TEST(Arena, AnUnusedScopeLeavesNoTrace) {
  Bench b;
  Arena arena(*b.device, Tier::host, 4096, b.ledger);
  { const Scope scope(arena); }
  EXPECT_TRUE(b.ledger.entries().empty());
}

TEST(Arena, TheLastByteIsThereAndOneUnitMoreIsNot) {
  Bench b;
  constexpr int64_t capacity = 8 * alignment;
  Arena arena(*b.device, Tier::device, capacity, b.ledger);
  arena.take(Use::weights, "embedding", DType::u8, {3 * alignment});
  arena.take(Use::weights, "layer", DType::u8, {alignment});
  arena.take(Use::weights, "layer", DType::u8, {alignment});
  arena.take(Use::optimizer, "moments", DType::u8, {2 * alignment});
  const Tensor last = arena.take(Use::activations, "input", DType::u8, {alignment});
  std::memset(last.data, 1, size_t(last.bytes()));
  EXPECT_EQ(arena.used(), arena.capacity());
  const int64_t entries = int64_t(b.ledger.entries().size());
  try {
    arena.take(Use::scratch, "logits", DType::f32, {1});
    FAIL() << "a full arena gave a byte";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::does_not_fit);
    EXPECT_EQ(e.problem().where, "logits, 4 B");
    EXPECT_EQ(e.problem().expected, "at most 2.0 KiB in all");
    // Holders of one name are added up and the largest comes first.
    EXPECT_EQ(e.problem().found, "2.0 KiB in use; the largest: embedding (weights) 768 B, moments (optimizer) 512 B, layer (weights) 512 B, input (activations) 256 B");
  }
  EXPECT_EQ(arena.used(), capacity) << "a refusal takes nothing";
  EXPECT_EQ(int64_t(b.ledger.entries().size()), entries) << "and records nothing";
}

TEST(Arena, OneUnitLessThanThePeakDoesNotFit) {
  Bench b;
  const auto step = [](Arena& arena) {
    const Scope scope(arena);
    arena.take(Use::activations, "x", DType::f32, {1000});
    arena.take(Use::activations, "y", DType::bf16, {77});
  };
  const auto phantom = phantom_device({});
  Ledger planned;
  Arena endless(*phantom, Tier::device, int64_t{1} << 40, planned);
  step(endless);
  const int64_t peak = planned.peak(Tier::device);
  Arena exact(*b.device, Tier::device, peak, b.ledger);
  EXPECT_NO_THROW(step(exact));
  EXPECT_EQ(difference(planned, b.ledger), "");
  Ledger third;
  Arena less(*b.device, Tier::device, peak - alignment, third);
  EXPECT_THROW(step(less), Error);
}

TEST(Arena, EmptyTensorsAndEmptyArenas) {
  Bench b;
  const auto phantom = phantom_device({});
  for (Device* device : {b.device.get(), phantom.get()}) {
    Ledger ledger;
    Arena none(*device, Tier::disk, 0, ledger);
    EXPECT_EQ(none.capacity(), 0);
    EXPECT_NO_THROW(none.take(Use::batch, "nothing", DType::i32, {0, 7}));
    EXPECT_THROW(none.take(Use::batch, "something", DType::i32, {1}), Error);
  }
}

TEST(Arena, RefusesSizesThatOverflowAndMarksAboveItsTop) {
  const auto phantom = phantom_device({});
  Ledger ledger;
  Arena arena(*phantom, Tier::device, int64_t{1} << 40, ledger);
  EXPECT_THROW(arena.take(Use::weights, "huge", DType::f32, {int64_t{1} << 62}), Error);
  EXPECT_THROW(arena.give_back_to(alignment), Error);
  EXPECT_EQ(arena.used(), 0);
}

TEST(Device, SaysSoWhenTheMachineHasNotTheBytes) {
  const auto device = cpu_device();
  try {
    device->reserve(Tier::pinned, int64_t{1} << 46);
    FAIL() << "64 TiB were reserved";
  } catch (const Error& e) {
    EXPECT_EQ(e.fault(), Fault::does_not_fit);
  }
}

}  // namespace
}  // namespace thimble
