// Micro-batches: every example once an epoch, documents apart, padding silent, and an order that needs no state.
#include "data/batches.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>

#include "data/mix.h"

namespace thimble::data {
namespace {

// Example i has the ids 1000 i + 1, 1000 i + 2, ...; the first third of it is not learned.
Examples make(const std::vector<int64_t>& lengths) {
  std::vector<uint32_t> tokens;
  std::vector<int64_t> ends;
  for (size_t i = 0; i < lengths.size(); ++i) {
    for (int64_t t = 0; t < lengths[i]; ++t) tokens.push_back(uint32_t(1000 * int64_t(i) + 1 + t) | (t < lengths[i] / 3 ? 0 : learned_bit));
    ends.push_back(int64_t(tokens.size()));
  }
  return Examples(std::make_shared<TokenPool>(std::move(tokens), std::move(ends)));
}

std::vector<int64_t> lengths(int64_t n, int64_t most) {
  std::vector<int64_t> l;
  for (int64_t i = 0; i < n; ++i) l.push_back(2 + (i * 7919) % (most - 1));
  return l;
}

// Checks one micro-batch whole against the examples; counts how often each was seen.
void check_batch(const MicroBatch& b, const Examples& examples, std::map<int64_t, int>& seen) {
  const size_t n = b.ids.size();
  ASSERT_EQ(b.targets.size(), n);
  ASSERT_EQ(b.positions.size(), n);
  ASSERT_EQ(b.start.size(), n);
  for (size_t t = 0; t < n;) {
    ASSERT_EQ(b.start[t], int32_t(t));
    ASSERT_EQ(b.positions[t], 0);
    if (b.ids[t] == 0) {
      ASSERT_EQ(b.targets[t], -1);
      ++t;
      continue;
    }
    const int64_t i = (b.ids[t] - 1) / 1000;
    const Example e = examples[i];
    ++seen[i];
    for (size_t k = 0; k < size_t(e.size()); ++k) {
      ASSERT_EQ(b.ids[t + k], e.id(int64_t(k)));
      ASSERT_EQ(b.targets[t + k], e.target(int64_t(k)));
      ASSERT_EQ(b.positions[t + k], int32_t(k));
      ASSERT_EQ(b.start[t + k], int32_t(t));
    }
    t += size_t(e.size());
  }
}

void check_epoch(const Batches& batches, int64_t epoch) {
  std::map<int64_t, int> seen;
  for (int64_t i = 0; i < batches.micro_batches_per_epoch(); ++i) check_batch(batches.at(epoch, i), batches.examples(), seen);
  EXPECT_EQ(int64_t(seen.size()), batches.examples().size());
  for (const auto& [example, times] : seen) EXPECT_EQ(times, 1) << example;
}

}  // namespace

TEST(Batches, OneExampleARow) {
  const Batches batches(make(lengths(101, 50)), {.rows = 4, .cutoff = 50});
  EXPECT_EQ(batches.micro_batches_per_epoch(), 26);
  EXPECT_EQ(batches.token_cap(), 208);
  for (int64_t epoch = 0; epoch < 3; ++epoch) check_epoch(batches, epoch);
  for (int64_t i = 0; i < 26; ++i) {
    const size_t n = batches.at(0, i).ids.size();
    EXPECT_EQ(n % 16, 0u);
    EXPECT_LE(int64_t(n), batches.token_cap());
  }
}

TEST(Batches, PackedRows) {
  const Examples examples = make(lengths(333, 60));
  const int64_t tokens = examples.tokens();
  const Batches batches(Examples(examples), {.rows = 2, .cutoff = 64, .packing = true});
  for (int64_t epoch = 0; epoch < 3; ++epoch) check_epoch(batches, epoch);
  int64_t rows = 0;
  for (int64_t i = 0; i < batches.micro_batches_per_epoch(); ++i) {
    const MicroBatch b = batches.at(0, i);
    ASSERT_EQ(int64_t(b.ids.size()), batches.token_cap());
    for (int32_t row = 0; row < 2; ++row) {  // no document crosses from one row into the next
      EXPECT_EQ(b.start[size_t(row) * 64], row * 64);
      rows += b.ids[size_t(row) * 64] != 0;
    }
  }
  EXPECT_LE(double(rows), 1.1 * double(tokens) / 64 + 1) << "rows are well filled";
}

TEST(Batches, ExactRowsNeedNoPadding) {
  const Batches batches(make(std::vector<int64_t>(6, 32)), {.rows = 2, .cutoff = 32, .packing = true});
  EXPECT_EQ(batches.micro_batches_per_epoch(), 3);
  const MicroBatch b = batches.at(0, 0);
  EXPECT_EQ(std::count(b.ids.begin(), b.ids.end(), 0), 0);
}

TEST(Batches, OrderIsAFunctionOfSeedAndEpoch) {
  const Examples examples = make(lengths(97, 40));
  const auto first_ids = [&](const Batches& b, int64_t epoch) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < b.micro_batches_per_epoch(); ++i) ids.push_back(b.at(epoch, i).ids[0]);
    return ids;
  };
  for (const bool packing : {false, true}) {
    const Batches a(Examples(examples), {.rows = 1, .cutoff = 40, .packing = packing, .seed = 5});
    const Batches b(Examples(examples), {.rows = 1, .cutoff = 40, .packing = packing, .seed = 5});
    const Batches other(Examples(examples), {.rows = 1, .cutoff = 40, .packing = packing, .seed = 6});
    const auto third = first_ids(a, 3);
    EXPECT_EQ(first_ids(b, 3), third);  // b never saw the epochs before
    first_ids(a, 0);
    EXPECT_EQ(first_ids(a, 3), third);
    EXPECT_NE(first_ids(a, 4), third);
    EXPECT_NE(first_ids(other, 3), third);
  }
  const Batches still(Examples(examples), {.rows = 1, .cutoff = 40, .shuffle = false});
  for (int64_t i = 0; i < 97; ++i) EXPECT_EQ(still.at(2, i).ids[0], 1000 * i + 1);
}

// Resume rests on these orders: should they change, checkpoints of before would see other data.
TEST(Batches, PermutationIsUniformAndStable) {
  EXPECT_EQ(permutation(8, 42, 0), permutation(8, 42, 0));
  std::map<std::vector<uint32_t>, int> counts;
  for (uint64_t s = 0; s < 6000; ++s) ++counts[permutation(3, 1, s)];
  ASSERT_EQ(counts.size(), 6u);
  for (const auto& [order, n] : counts) EXPECT_NEAR(n, 1000, 150);
}

TEST(Split, IsDeterministicAndComplete) {
  const Examples examples = make(lengths(100, 30));
  for (const double val_size : {0.1, 10.0}) {
    const auto [train, evaluation] = split(examples, val_size, 42);
    EXPECT_EQ(train.size(), 90);
    ASSERT_EQ(evaluation.size(), 10);
    std::set<int32_t> first;
    for (const Examples* part : {&train, &evaluation}) {
      int32_t last = 0;
      for (int64_t i = 0; i < part->size(); ++i) {
        EXPECT_GT((*part)[i].id(0), last);
        last = (*part)[i].id(0);
        first.insert(last);
      }
    }
    EXPECT_EQ(first.size(), 100u);
    const auto again = split(examples, val_size, 42);
    const auto other = split(examples, val_size, 43);
    bool same = true;
    for (int64_t i = 0; i < 10; ++i) {
      EXPECT_EQ(again.second[i].id(0), evaluation[i].id(0));
      same = same && other.second[i].id(0) == evaluation[i].id(0);
    }
    EXPECT_FALSE(same);
  }
  EXPECT_EQ(split(examples, 0, 1).second.size(), 0);
  EXPECT_EQ(split(examples, 1000, 1).first.size(), 1);
}

// Which dataset each example is of: the pools have different first ids.
std::string turns(const Examples& mixed, std::span<const Examples> sets) {
  std::string all;
  for (int64_t i = 0; i < mixed.size(); ++i)
    for (size_t s = 0; s < sets.size(); ++s)
      for (int64_t k = 0; k < sets[s].size(); ++k)
        if (mixed[i].tokens.data() == sets[s][k].tokens.data()) all += char('a' + s);
  return all;
}

TEST(Mixing, TurnsEndWithTheFirstOrTheLast) {
  const std::vector<Examples> sets{make({3, 3}), make({3, 3, 3, 3})};
  EXPECT_EQ(turns(mix(sets, Mix::concat, {}, 1), sets), "aabbbb");
  EXPECT_EQ(turns(mix(sets, Mix::under, {}, 1), sets), "aba");
  EXPECT_EQ(turns(mix(sets, Mix::over, {}, 1), sets), "abababab");
  EXPECT_EQ(turns(mix(sets, Mix::once, {}, 1), sets), "ababbb");
  const Examples over = mix(sets, Mix::over, {}, 1);
  EXPECT_EQ(over[4].tokens.data(), sets[0][0].tokens.data()) << "the shorter one begins again";
}

TEST(Mixing, ProbabilitiesAreKeptAndTheSeedDecides) {
  const std::vector<Examples> sets{make(lengths(4000, 2)), make(lengths(4000, 2))};
  const std::array probabilities{3.0, 1.0};
  const Examples a = mix(sets, Mix::under, probabilities, 7), b = mix(sets, Mix::under, probabilities, 7), c = mix(sets, Mix::under, probabilities, 8);
  ASSERT_GT(a.size(), 4000);
  EXPECT_NEAR(double(4000) / double(a.size()), 0.75, 0.03);  // ends when the first set is used up
  EXPECT_EQ(a.hash(), b.hash());
  EXPECT_NE(a.hash(), c.hash());
}

TEST(Mixing, SamplesAreDifferentUntilThereAreNoMore) {
  const Examples all = make(lengths(50, 9));
  const auto times = [&](const Examples& chosen) {
    std::map<const uint32_t*, int> seen;
    for (int64_t i = 0; i < chosen.size(); ++i) ++seen[chosen[i].tokens.data()];
    return seen;
  };
  EXPECT_EQ(times(choose(all, 20, 3)).size(), 20u);
  const auto twice = times(choose(all, 120, 3));
  EXPECT_EQ(twice.size(), 50u);
  for (const auto& [example, n] : twice) EXPECT_TRUE(n == 2 || n == 3);
}

}  // namespace thimble::data
