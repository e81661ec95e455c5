// The ring: which copies it makes, and that what a slot holds is right whatever the lanes do meanwhile.
#include "device/ring.h"

#include <gtest/gtest.h>

#include <numeric>

#include "late_device.h"

namespace thimble {
namespace {

constexpr int64_t words = 2048;  // of an item

// A device with an arena for slots and homes for items.
struct Bench {
  explicit Bench(std::unique_ptr<Device> d, int items, int slots) : device(std::move(d)), ring(stream, arena, "test ring", slots, words * 4) {
    for (int i = 0; i < items; ++i) homes.push_back(pinned.take(Use::weights, "home", DType::i32, {words}));
    ledger.clear_entries();
  }
  void fill_homes() {
    for (size_t i = 0; i < homes.size(); ++i) std::fill_n(homes[i].get<int32_t>(), words, int32_t(1000 * i));
  }
  Tensor acquire(int i) { return ring.acquire(i, homes[size_t(i)]); }
  void prefetch(int i) { ring.prefetch(i, homes[size_t(i)]); }

  std::vector<int64_t> copies(Tier to) const {
    std::vector<int64_t> items;
    for (const Entry& e : ledger.entries())
      if (e.kind == Entry::Kind::copied && e.to == to) items.push_back(e.offset);
    return items;
  }

  std::unique_ptr<Device> device;
  Ledger ledger;
  Arena arena{*device, Tier::device, 16 * words * 4, ledger};
  Arena pinned{*device, Tier::pinned, 64 * words * 4, ledger};
  Stream stream{*device, ledger, arena};
  Ring ring;
  std::vector<Tensor> homes;
};

// Forward, then backward, over layers that stream in, fetching `ahead` layers before they are needed.
void sweep(Bench& b, int layers, int ahead, const std::function<void(int, const Tensor&)>& use) {
  const auto visit = [&](int l, int direction) {
    const Tensor t = b.acquire(l);
    for (int k = 1; k <= ahead; ++k)
      if (const int next = l + k * direction; next >= 0 && next < layers) b.prefetch(next);
    use(l, t);
    b.ring.release(l);
  };
  for (int l = 0; l < layers; ++l) visit(l, 1);
  for (int l = layers - 1; l >= 0; --l) visit(l, -1);
}

TEST(Ring, ASweepForwardAndBackFetchesNothingTwiceThatIsStillThere) {
  for (const auto& [slots, ahead] : {std::pair{2, 1}, std::pair{3, 1}, std::pair{3, 2}, std::pair{4, 3}}) {
    SCOPED_TRACE(testing::Message() << slots << " slots, " << ahead << " ahead");
    constexpr int layers = 7;
    Bench b(phantom_device({}), layers, slots);
    sweep(b, layers, ahead, [](int, const Tensor&) {});
    std::vector<int64_t> expected(layers);
    std::iota(expected.begin(), expected.end(), 0);
    for (int l = layers - 1 - slots; l >= 0; --l) expected.push_back(l);  // the last `slots` layers are there when backward begins
    EXPECT_EQ(b.copies(Tier::device), expected);
    EXPECT_TRUE(b.copies(Tier::pinned).empty());
  }
}

TEST(Ring, WithASlotForEveryItemEachIsFetchedOnce) {
  Bench b(phantom_device({}), 4, 4);
  for (int pass = 0; pass < 3; ++pass) sweep(b, 4, 1, [](int, const Tensor&) {});
  EXPECT_EQ(b.copies(Tier::device), (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST(Ring, PrefetchNeverTakesWhatIsHeld) {
  Bench b(cpu_device(), 3, 2);
  b.fill_homes();
  const Tensor zero = b.acquire(0), one = b.acquire(1);
  b.prefetch(2);
  EXPECT_EQ(b.copies(Tier::device), (std::vector<int64_t>{0, 1})) << "no slot was free";
  EXPECT_EQ(zero.get<int32_t>()[words - 1], 0);
  EXPECT_EQ(one.get<int32_t>()[words - 1], 1000);
  EXPECT_THROW(b.acquire(2), Error);
  b.ring.release(0);
  b.prefetch(2);
  b.ring.release(1);
  EXPECT_EQ(b.acquire(2).get<int32_t>()[0], 2000);
  b.ring.release(2);
}

TEST(Ring, ReleaseWithoutAcquireIsAMistake) {
  Bench b(phantom_device({}), 2, 2);
  EXPECT_THROW(b.ring.release(0), Error);
  b.prefetch(0);
  EXPECT_THROW(b.ring.release(0), Error);
}

TEST(Ring, AnItemLargerThanASlotIsAMistake) {
  Bench b(phantom_device({}), 1, 1);
  EXPECT_THROW(b.ring.acquire_to_fill(0, words * 4 + 1), Error);
}

TEST(Ring, WriteBackReachesHomeAndTheItemStays) {
  Bench b(cpu_device(), 3, 2);
  b.fill_homes();
  const Tensor t = b.acquire(1);
  std::fill_n(t.get<int32_t>(), words, 7);
  b.ring.release(1, b.homes[1]);
  b.ring.drain();
  EXPECT_EQ(b.homes[1].get<int32_t>()[words - 1], 7);
  EXPECT_EQ(b.acquire(1).get<int32_t>()[0], 7);
  b.ring.release(1);
  EXPECT_EQ(b.copies(Tier::device), (std::vector<int64_t>{1}));
  EXPECT_EQ(b.copies(Tier::pinned), (std::vector<int64_t>{1}));
}

TEST(Ring, ForgetFetchesAnew) {
  Bench b(cpu_device(), 2, 2);
  b.fill_homes();
  b.acquire(0);
  EXPECT_THROW(b.ring.forget(), Error) << "an item is held";
  b.ring.release(0);
  b.ring.forget();
  std::fill_n(b.homes[0].get<int32_t>(), words, -1);
  EXPECT_EQ(b.acquire(0).get<int32_t>()[5], -1);
  b.ring.release(0);
}

// Activations that are made, go home, and come back in reverse: what is offloaded by a training step.
TEST(Ring, WhatIsOffloadedComesBackInReverse) {
  for (const int slots : {2, 3}) {
    constexpr int layers = 9;
    Bench b(cpu_device(), layers, slots);
    for (int l = 0; l < layers; ++l) {
      const Tensor t = b.ring.acquire_to_fill(l, words * 4);
      std::fill_n(static_cast<int32_t*>(t.data), words, 11 * l + 1);
      b.ring.release(l, b.homes[size_t(l)]);
    }
    for (int l = layers - 1; l >= 0; --l) {
      const Tensor t = b.acquire(l);
      if (l > 0) b.prefetch(l - 1);
      EXPECT_EQ(t.get<int32_t>()[0], 11 * l + 1);
      EXPECT_EQ(t.get<int32_t>()[words - 1], 11 * l + 1);
      b.ring.release(l);
    }
    std::vector<int64_t> back;
    for (int l = layers - 1 - slots; l >= 0; --l) back.push_back(l);
    EXPECT_EQ(b.copies(Tier::device), back) << "the last ones never left their slots";
  }
}

// A random program of all that a ring can do, on items whose content counts how often they were changed. `run` is the compute stream.
void random_program(Bench& b, uint64_t seed, int steps, const std::function<void(std::function<void()>)>& run) {
  Draws draws{.seed = seed};
  const auto items = b.homes.size();
  std::vector<int32_t> truth(items);
  for (size_t i = 0; i < items; ++i) truth[i] = int32_t(1000 * i);
  std::vector<std::pair<int, int32_t*>> held;
  const auto expect_all = [&](int32_t* at, int32_t value) {
    run([=] { ASSERT_TRUE(std::all_of(at, at + words, [&](int32_t w) { return w == value; })) << at[0] << " for " << value << ", seed " << seed; });
  };
  const auto is_held = [&](int i) { return std::any_of(held.begin(), held.end(), [&](const auto& h) { return h.first == i; }); };
  for (int n = 0; n < steps; ++n) {
    const int i = int(draws.below(items));
    switch (draws.below(6)) {
      case 0: case 1:
        b.prefetch(i);
        break;
      case 2:
        if (is_held(i) || int(held.size()) == b.ring.slots()) break;
        held.emplace_back(i, b.acquire(i).get<int32_t>());
        expect_all(held.back().second, truth[size_t(i)]);
        break;
      case 3:  // made here, and home at once
        if (is_held(i) || int(held.size()) == b.ring.slots()) break;
        {
          auto* at = static_cast<int32_t*>(b.ring.acquire_to_fill(i, words * 4).data);
          const int32_t value = ++truth[size_t(i)];
          run([=] { std::fill_n(at, words, value); });
          b.ring.release(i, b.homes[size_t(i)]);
        }
        break;
      default:
        if (held.empty()) break;
        const auto [item, at] = held.front();
        held.erase(held.begin());
        expect_all(at, truth[size_t(item)]);
        if (draws.below(2)) {
          const int32_t value = ++truth[size_t(item)];
          run([at = at, value] { std::fill_n(at, words, value); });
          b.ring.release(item, b.homes[size_t(item)]);
        } else {
          b.ring.release(item);
        }
    }
    if (held.empty() && draws.below(40) == 0) b.ring.drain();
    if (held.empty() && draws.below(40) == 0) b.ring.forget();
  }
  for (const auto& h : held) b.ring.release(h.first);
  for (size_t i = 0; i < items; ++i) {
    expect_all(b.acquire(int(i)).get<int32_t>(), truth[i]);
    b.ring.release(int(i));
  }
  b.ring.drain();
  b.device->synchronize();
  for (size_t i = 0; i < items; ++i) EXPECT_EQ(b.homes[i].get<int32_t>()[words - 1], truth[i]) << "home of " << i << ", seed " << seed;
}

TEST(Ring, HoldsTheRightBytesBesideTheCopyThreads) {
  for (const int slots : {2, 3, 5})
    for (uint64_t seed = 0; seed < 8; ++seed) {
      Bench b(cpu_device(), 12, slots);
      b.fill_homes();
      random_program(b, seed, 400, [](const std::function<void()>& work) { work(); });
      if (testing::Test::HasFailure()) return;
    }
}

TEST(Ring, HoldsTheRightBytesInWhateverOrderTheLanesRun) {
  for (const int slots : {1, 2, 3, 4})
    for (uint64_t seed = 0; seed < 60; ++seed) {
      auto late = std::make_unique<LateDevice>(seed + 1000);
      LateDevice& device = *late;
      Bench b(std::move(late), 6, slots);
      b.fill_homes();
      random_program(b, seed, 150, [&](std::function<void()> work) { device.run(std::move(work)); });
      if (testing::Test::HasFailure()) return;
    }
}

// Items at home on disk pass through a ring of pinned slots: one is lent to the ring on the device while the next ones are read.
TEST(Ring, WhatComesFromDiskIsRightInWhateverOrderTheLanesRun) {
  for (const int slots : {1, 2, 3})
    for (uint64_t seed = 0; seed < 60; ++seed) {
      constexpr int items = 7;
      LateDevice device(seed);
      Ledger ledger;
      Arena arena(device, Tier::device, 8 * words * 4, ledger), pinned(device, Tier::pinned, 8 * words * 4, ledger), disk(device, Tier::disk, items * words * 4, ledger);
      Stream stream{device, ledger, arena};
      std::vector<Tensor> homes;
      for (int i = 0; i < items; ++i) homes.push_back(disk.take(Use::weights, "home", DType::i32, {words}));
      Ring from_disk(stream, pinned, "test ring", slots, words * 4), ring(stream, arena, "test ring", 2, words * 4);
      const auto bring = [&](int i) {
        if (ring.has(i)) return ring.prefetch(i, homes[size_t(i)]);
        const auto [bytes, ready] = from_disk.lend(i, homes[size_t(i)]);
        ring.prefetch(i, bytes, ready);
        if (ring.has(i)) from_disk.give_back(i, ring.arrival(i));
      };
      for (int i = 0; i < items; ++i) {  // made on the device, and from there to disk
        auto* at = static_cast<int32_t*>(ring.acquire_to_fill(i, words * 4).data);
        device.run([=] { std::fill_n(at, words, 1000 + i); });
        const Tensor staged = from_disk.acquire_to_fill(i, words * 4);
        from_disk.release(i, homes[size_t(i)], ring.release(i, staged));
      }
      Draws draws{.seed = seed + 500};
      for (int n = 0; n < 60; ++n) {
        const int i = int(draws.below(items)), next = int(draws.below(items));
        bring(i);
        auto* at = ring.acquire(i, homes[size_t(i)]).get<int32_t>();
        bring(next);
        if (const int ahead = int(draws.below(items)); slots > 1 && !ring.has(ahead)) from_disk.prefetch(ahead, homes[size_t(ahead)]);
        device.run([=] { ASSERT_TRUE(std::all_of(at, at + words, [&](int32_t w) { return w == 1000 + i; })) << at[0] << " for " << i << ", seed " << seed; });
        ring.release(i);
      }
      ring.drain(), from_disk.drain();
      device.synchronize();
      for (int i = 0; i < items; ++i) EXPECT_EQ(homes[size_t(i)].get<int32_t>()[words - 1], 1000 + i);
      if (testing::Test::HasFailure()) return;
    }
}

TEST(Ring, ThePhantomMakesTheSameLedger) {
  for (const int slots : {1, 2, 3})
    for (uint64_t seed = 0; seed < 5; ++seed) {
      Bench real(cpu_device(), 8, slots), late(std::make_unique<LateDevice>(seed), 8, slots), phantom(phantom_device({}), 8, slots);
      const auto steps = [&](Bench& b) {
        Draws draws{.seed = seed};
        for (int n = 0; n < 300; ++n) {
          const int i = int(draws.below(8));
          if (draws.below(3) == 0) b.prefetch(i);
          b.acquire(i);
          if (draws.below(2)) b.ring.release(i, b.homes[size_t(i)]);
          else b.ring.release(i);
        }
        b.ring.drain();
      };
      steps(real), steps(late), steps(phantom);
      EXPECT_EQ(difference(real.ledger, phantom.ledger), "");
      EXPECT_EQ(difference(late.ledger, phantom.ledger), "");
      EXPECT_GT(phantom.ledger.entries().size(), 300u);
    }
}

// A slot that was fetched and not used is given to another item: the later of two copies of one lane to one place stays, though small ones need no thread.
TEST(Copies, OfALaneKeepTheirOrderWhateverTheirSize) {
  const auto device = cpu_device({});
  const std::vector<char> large(size_t(64) << 20, 'l'), small(100, 's');
  std::vector<char> to(large.size());
  const Ticket first = device->copy(Lane::in, to.data(), large.data(), std::ssize(large), 0, 0);
  const Ticket second = device->copy(Lane::in, to.data(), small.data(), std::ssize(small), 0, 0);
  device->wait(first), device->wait(second);
  EXPECT_TRUE(std::equal(small.begin(), small.end(), to.begin()));
  EXPECT_EQ(to[small.size()], 'l');
}

TEST(Ring, AnErrorMayUnwindWhileCopiesAreUnderWay) {
  for (int n = 0; n < 20; ++n) {
    const auto device = cpu_device();
    Ledger ledger;
    const auto step = [&] {
      constexpr int64_t large = int64_t{8} << 20;
      Arena pinned(*device, Tier::pinned, 2 * large, ledger), arena(*device, Tier::device, 2 * large, ledger);
      Stream stream{*device, ledger, arena};
      const Tensor home = pinned.take(Use::weights, "home", DType::u8, {large});
      Ring ring(stream, arena, "test ring", 2, large);
      ring.prefetch(0, home);
      ring.prefetch(1, home);
      throw Error("a step failed");
    };
    EXPECT_THROW(step(), Error);
  }
}

}  // namespace
}  // namespace thimble
