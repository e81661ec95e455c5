// What a model is trained on: token sequences with the token to be predicted at each place. Flat, eight bytes a token.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"

namespace thimble::data {

struct Example {
  std::span<const int32_t> ids;
  std::span<const int32_t> targets;  // the id that follows, or -1 where nothing is learned; the last is always -1
};

class Examples {
 public:
  int64_t size() const { return int64_t(ends_.size()); }
  int64_t tokens() const { return int64_t(ids_.size()); }
  int64_t length(int64_t i) const { return ends_[size_t(i)] - begin(i); }
  Example operator[](int64_t i) const {
    const auto at = size_t(begin(i)), n = size_t(length(i));
    return {std::span(ids_).subspan(at, n), std::span(targets_).subspan(at, n)};
  }
  // learned, by token: whether this token is to be predicted by the one before it.
  void add(std::span<const int32_t> ids, std::span<const uint8_t> learned) {
    check(ids.size() == learned.size(), "each token is learned or not");
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    for (size_t t = 0; t < ids.size(); ++t) targets_.push_back(t + 1 < ids.size() && learned[t + 1] ? ids[t + 1] : -1);
    ends_.push_back(int64_t(ids_.size()));
  }
  void add(Example e) {
    ids_.insert(ids_.end(), e.ids.begin(), e.ids.end());
    targets_.insert(targets_.end(), e.targets.begin(), e.targets.end());
    ends_.push_back(int64_t(ids_.size()));
  }

 private:
  int64_t begin(int64_t i) const { return i ? ends_[size_t(i - 1)] : 0; }
  std::vector<int32_t> ids_, targets_;
  std::vector<int64_t> ends_;
};

// Sets examples aside for evaluation: a share of them where val_size < 1, else a count. Which ones depends on seed alone; both
// parts keep the order they had, and the training part is never left empty. Returns {training, evaluation}.
std::pair<Examples, Examples> split(const Examples&, double val_size, uint64_t seed);

}  // namespace thimble::data
