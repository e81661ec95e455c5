// Peaks, what was alive at them, and equality of two ledgers.
#include "device/ledger.h"

#include <gtest/gtest.h>

namespace thimble {
namespace {

TEST(Ledger, PeaksPerTier) {
  Ledger l;
  l.took(Tier::device, Use::weights, "w", 0, 1000);
  l.took(Tier::device, Use::activations, "x", 1024, 500);
  l.took(Tier::pinned, Use::weights, "home", 0, 100);
  l.gave_back(Tier::device, 1024);
  l.took(Tier::device, Use::scratch, "s", 1024, 1);
  EXPECT_EQ(l.peak(Tier::device), 1024 + 512);
  EXPECT_EQ(l.in_use(Tier::device), 1024 + 256);
  EXPECT_EQ(l.peak(Tier::pinned), 256);
  EXPECT_EQ(l.peak(Tier::host), 0);
}

TEST(Ledger, AtPeakAddsUpWhatWasAliveAtTheFullestMoment) {
  Ledger l;
  l.took(Tier::device, Use::weights, "w", 0, 300);  // 512
  l.took(Tier::device, Use::activations, "x", 512, 256);
  l.took(Tier::device, Use::scratch, "s", 768, 2000);  // 2048: the peak is 2816
  l.gave_back(Tier::device, 768);
  l.took(Tier::device, Use::activations, "y", 768, 1024);
  l.took(Tier::pinned, Use::optimizer, "m", 0, 1 << 20);
  l.gave_back(Tier::device, 512);
  l.took(Tier::device, Use::gradients, "g", 512, 1024);
  const auto at = l.at_peak(Tier::device);
  EXPECT_EQ(at[size_t(Use::weights)], 512);
  EXPECT_EQ(at[size_t(Use::activations)], 256);
  EXPECT_EQ(at[size_t(Use::scratch)], 2048);
  EXPECT_EQ(at[size_t(Use::gradients)], 0);
  EXPECT_EQ(at[size_t(Use::optimizer)], 0);
  int64_t sum = 0;
  for (const int64_t n : at) sum += n;
  EXPECT_EQ(sum, l.peak(Tier::device));
  EXPECT_EQ(l.at_peak(Tier::pinned)[size_t(Use::optimizer)], 1 << 20);
}

TEST(Ledger, APeakAtTheVeryEndCounts) {
  Ledger l;
  l.took(Tier::device, Use::weights, "w", 0, 256);
  l.took(Tier::device, Use::cache, "kv", 256, 256);
  EXPECT_EQ(l.at_peak(Tier::device)[size_t(Use::cache)], 256);
}

TEST(Ledger, PeaksGoOnWithoutEntries) {
  Ledger l;
  l.record(false);
  l.took(Tier::device, Use::weights, "w", 0, 512);
  l.gave_back(Tier::device, 0);
  l.ran({.name = "matmul", .flops = 1});
  l.copied(Tier::pinned, Tier::device, "ring", 1, 2);
  l.waited("ring", 1);
  EXPECT_TRUE(l.entries().empty());
  EXPECT_EQ(l.peak(Tier::device), 512);
  EXPECT_EQ(l.in_use(Tier::device), 0);
}

void one_step(Ledger& l, const char* name, double flops, int layer) {
  l.took(Tier::device, Use::weights, "w", 0, 256);
  l.at_layer(layer);
  l.ran({.name = name, .flops = flops, .bytes = 8, .matrix = true});
  l.at_layer(-1);
  l.copied(Tier::device, Tier::pinned, "states", 3, 64);
}

TEST(Ledger, EqualByTextNotByPointer) {
  const std::string same = "matmul";
  Ledger a, b;
  one_step(a, "matmul", 4, 2);
  one_step(b, same.c_str(), 4, 2);
  EXPECT_EQ(difference(a, b), "");
}

TEST(Ledger, DifferenceNamesTheFirstEntryThatDiffers) {
  Ledger a;
  one_step(a, "matmul", 4, 2);
  for (const auto& [name, flops, layer] : {std::tuple{"linear", 4.0, 2}, std::tuple{"matmul", 5.0, 2}, std::tuple{"matmul", 4.0, 1}}) {
    Ledger b;
    one_step(b, name, flops, layer);
    EXPECT_TRUE(difference(a, b).starts_with("entry 1: 'layer 2 ran matmul: 4 flops, 8 bytes' beside '")) << difference(a, b);
  }
  Ledger longer;
  one_step(longer, "matmul", 4, 2);
  longer.waited("states", 3);
  EXPECT_EQ(difference(a, longer), "3 entries beside 4");
  EXPECT_EQ(difference(longer, a), "4 entries beside 3");
}

TEST(Ledger, EveryFieldOfAnEntryCounts) {
  const Entry e{.kind = Entry::Kind::copied, .tier = Tier::pinned, .to = Tier::device, .name = "ring", .offset = 1, .bytes = 2};
  for (const auto& change : std::initializer_list<void (*)(Entry&)>{
           [](Entry& x) { x.kind = Entry::Kind::waited; }, [](Entry& x) { x.tier = Tier::host; }, [](Entry& x) { x.to = Tier::disk; },
           [](Entry& x) { x.use = Use::ring; }, [](Entry& x) { x.matrix = true; }, [](Entry& x) { x.layer = 0; }, [](Entry& x) { x.name = "other"; },
           [](Entry& x) { x.offset = 0; }, [](Entry& x) { x.bytes = 3; }, [](Entry& x) { x.flops = 1; }}) {
    Entry other = e;
    EXPECT_EQ(e, other);
    change(other);
    EXPECT_FALSE(e == other);
  }
}

}  // namespace
}  // namespace thimble
