// Examples to micro-batches: flat token lists in which documents lie one after the other and see only themselves.
// The order is a function of (seed, epoch), so that a resumed run needs two counters and no state.
#pragma once
#include <cstdint>
#include <vector>

#include "data/examples.h"

namespace thimble::data {

// All of N tokens. Padding is documents of one token that learn nothing.
struct MicroBatch {
  std::vector<int32_t> ids;
  std::vector<int32_t> targets;    // the id to predict, or -1
  std::vector<int32_t> positions;  // from 0 in each document
  std::vector<int32_t> start;      // index of the first token of the document: attention sees start[t]..t
};

struct BatchOptions {
  int64_t rows = 1;       // of a micro-batch
  int64_t cutoff = 2048;  // tokens of a row at most
  bool packing = false;   // rows are filled with several examples, each padded to `cutoff`; else a row is one example, unpadded
  bool shuffle = true;
  uint64_t seed = 42;
};

// Tokens of a micro-batch at most: rows * cutoff, rounded up to 16.
constexpr int64_t token_cap(int64_t rows, int64_t cutoff) { return (rows * cutoff + 15) / 16 * 16; }

// Streams of random numbers that never meet: what is drawn, and for which epoch.
enum class Purpose : uint64_t { epoch_order = 1, packing_order = 2, evaluation_choice = 3, mixing = 4, sampling = 5 };
constexpr uint64_t stream_of(Purpose purpose, int64_t epoch = 0) { return uint64_t(purpose) << 48 | uint64_t(epoch); }

// 0..n-1 in an order that depends on (seed, stream) alone.
std::vector<uint32_t> permutation(int64_t n, uint64_t seed, uint64_t stream);

class Batches {
 public:
  Batches(Examples examples, BatchOptions options);
  int64_t micro_batches_per_epoch() const { return (rows() + options_.rows - 1) / options_.rows; }
  int64_t token_cap() const { return data::token_cap(options_.rows, options_.cutoff); }  // with packing N is always this
  // 0 <= index < micro_batches_per_epoch(). Keeps the order of the last epoch asked for, so one thread at a time.
  MicroBatch at(int64_t epoch, int64_t index) const;
  const Examples& examples() const { return examples_; }

 private:
  int64_t rows() const { return int64_t(row_ends_.size()); }
  void one_a_row();
  void pack();
  const std::vector<uint32_t>& order(int64_t epoch) const;

  Examples examples_;
  BatchOptions options_;
  std::vector<uint32_t> row_examples_;  // examples of row after row
  std::vector<int64_t> row_ends_;       // of each row, within row_examples_
  mutable std::vector<uint32_t> order_;
  mutable int64_t order_of_ = -1;
};

}  // namespace thimble::data
