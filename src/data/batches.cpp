// Packing is best fit: each example, in an order shuffled once, goes to the fullest row that has room. Rows are fixed from then
// on and only their order changes, so every epoch has the same number of micro-batches.
#include "data/batches.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <tuple>

#include "base/philox.h"

namespace thimble::data {
namespace {

constexpr int64_t grain = 16;  // tokens: what the kernels' tiles like
int64_t round_up(int64_t n) { return (n + grain - 1) / grain * grain; }

void add_document(MicroBatch& b, Example e) {
  const auto start = int32_t(b.ids.size());
  for (int64_t t = 0; t < e.size(); ++t) {
    b.ids.push_back(e.id(t));
    b.targets.push_back(e.target(t));
    b.positions.push_back(int32_t(t));
    b.start.push_back(start);
  }
}

void pad_to(MicroBatch& b, int64_t tokens) {
  while (int64_t(b.ids.size()) < tokens) {
    b.start.push_back(int32_t(b.ids.size()));
    b.ids.push_back(0);
    b.targets.push_back(-1);
    b.positions.push_back(0);
  }
}

}  // namespace

std::vector<uint32_t> permutation(int64_t n, uint64_t seed, uint64_t stream) {
  check(n >= 0 && n < int64_t{1} << 32, "a permutation has less than 2^32 elements");
  std::vector<uint32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0u);
  Draws draws{seed, stream};
  for (uint64_t i = uint64_t(n); i > 1; --i) std::swap(order[i - 1], order[draws.below(i)]);
  return order;
}

Batches::Batches(Examples examples, BatchOptions options) : examples_(std::move(examples)), options_(options) {
  check(options_.rows > 0 && options_.cutoff > 0 && options_.rows <= INT32_MAX / options_.cutoff - grain,
        "a micro-batch has at least one row and its tokens count in 31 bits");
  for (int64_t i = 0; i < examples_.size(); ++i) check(examples_.length(i) <= options_.cutoff, "an example fits its row");
  if (options_.packing) pack();
  else one_a_row();
}

void Batches::one_a_row() {
  row_examples_.resize(size_t(examples_.size()));
  std::iota(row_examples_.begin(), row_examples_.end(), 0u);
  row_ends_.resize(row_examples_.size());
  std::iota(row_ends_.begin(), row_ends_.end(), int64_t{1});
}

void Batches::pack() {
  std::vector<uint32_t> queue = permutation(examples_.size(), options_.seed, stream_of(Purpose::packing_order));
  if (!options_.shuffle) std::sort(queue.begin(), queue.end());
  std::vector<std::vector<uint32_t>> rows;
  std::set<std::pair<int64_t, size_t>> room;  // tokens left, row
  for (const uint32_t example : queue) {
    const int64_t length = examples_.length(example);
    const auto fit = room.lower_bound({length, 0});
    size_t row = rows.size();
    int64_t left = options_.cutoff;
    if (fit != room.end()) {
      std::tie(left, row) = *fit;
      room.erase(fit);
    } else {
      rows.emplace_back();
    }
    rows[row].push_back(example);
    if (left > length) room.emplace(left - length, row);
  }
  for (const auto& row : rows) {
    row_examples_.insert(row_examples_.end(), row.begin(), row.end());
    row_ends_.push_back(int64_t(row_examples_.size()));
  }
}

const std::vector<uint32_t>& Batches::order(int64_t epoch) const {
  if (order_of_ != epoch) {
    order_ = permutation(rows(), options_.seed, stream_of(Purpose::epoch_order, epoch));
    if (!options_.shuffle) std::sort(order_.begin(), order_.end());
    order_of_ = epoch;
  }
  return order_;
}

MicroBatch Batches::at(int64_t epoch, int64_t index) const {
  check(epoch >= 0 && index >= 0 && index < micro_batches_per_epoch(), "a micro-batch of this epoch");
  const auto& order = this->order(epoch);
  MicroBatch b;
  const int64_t first = index * options_.rows, end = std::min(rows(), first + options_.rows);
  for (int64_t r = first; r < end; ++r) {
    const size_t row = order[size_t(r)];
    for (int64_t i = row ? row_ends_[row - 1] : 0; i < row_ends_[row]; ++i) add_document(b, examples_[row_examples_[size_t(i)]]);
    if (options_.packing) pad_to(b, (r - first + 1) * options_.cutoff);
  }
  pad_to(b, options_.packing ? token_cap() : round_up(int64_t(b.ids.size())));
  return b;
}

}  // namespace thimble::data
