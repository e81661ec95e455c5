// Of a vocabulary few tokens are likely: where an edge is to be found, scores are sorted only as far down as it lies.
#include "ops/draw.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/threads.h"
#include "ops/draw_law.h"

namespace thimble::ops {

void draw_cuda(CudaContext&, Tensor ids, Tensor logits, std::span<const std::optional<Drawing>> rows);  // draw.cu

namespace {

constexpr int64_t block = 4096;  // tokens that a thread weighs at a time

// Ids by falling score, equals by id, from the best down by steps that grow.
class Falling {
 public:
  Falling(std::span<const float> score, double best, double step) : score_(score), down_to_(best - step), step_(step) {}
  int32_t operator[](size_t n) {  // below how many scores there are
    while (n >= ids_.size()) reach();
    return ids_[n];
  }
  size_t known() const { return ids_.size(); }  // so far: all down to some score

 private:
  void reach() {
    const auto known = std::ptrdiff_t(ids_.size());
    for (size_t i = 0; i < score_.size(); ++i)
      if (score_[i] < above_ && score_[i] >= down_to_) ids_.push_back(int32_t(i));
    std::sort(ids_.begin() + known, ids_.end(), [&](int32_t a, int32_t b) {
      const float x = score_[size_t(a)], y = score_[size_t(b)];
      return x > y || (x == y && a < b);
    });
    above_ = down_to_;
    step_ *= 2;
    down_to_ -= step_;
  }
  std::span<const float> score_;
  std::vector<int32_t> ids_;
  double above_ = std::numeric_limits<double>::infinity(), down_to_, step_;
};

float largest_of(std::span<const float> score) {
  float most = score[0];
  for (const float x : score) most = std::max(most, x);
  return most;
}

// Which tokens are kept, and what they weigh together.
class Kept {
 public:
  Kept(std::span<const float> score, const Drawing& how) : score_(score), best_(largest_of(score)), scale_(scale_of(how.temperature)) {
    Falling order(score, best_, std::max(how.temperature / 2, 1e-3));
    const bool few = how.top_k > 0 && size_t(how.top_k) < score.size();
    if (few) least_ = score[size_t(order[size_t(how.top_k) - 1])];
    if (how.top_p < 1) {
      if (few)
        for (size_t i = 0; i < order.known(); ++i) sum_ += weight(score[size_t(order[i])]);
      else add_up();
      const uint64_t enough = enough_of(sum_, how.top_p);
      uint64_t sum = 0;
      for (size_t i = 0; sum < enough; ++i) {
        const float x = score[size_t(order[i])];
        least_ = x, sum += weight(x);
      }
    }
    least_ = std::max(least_, best_ + edge_of(how.temperature, how.min_p));
    add_up();
  }
  bool has(float score) const { return score >= least_; }
  uint64_t weight(float score) const { return has(score) ? weight_of(score - best_, scale_) : 0; }
  uint64_t sum() const { return sum_; }
  int32_t at(uint64_t left) const {  // the first with which they weigh more than this
    size_t b = 0;
    for (; left >= of_block_[b]; ++b) left -= of_block_[b];
    size_t i = b * size_t(block);
    for (uint64_t w; left >= (w = weight(score_[i])); ++i) left -= w;
    return int32_t(i);
  }

 private:
  void add_up() {
    const auto n = int64_t(score_.size());
    of_block_.resize(size_t((n + block - 1) / block));
    parallel_for(std::ssize(of_block_), 2, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        uint64_t sum = 0;
        for (int64_t i = b * block; i < std::min(n, (b + 1) * block); ++i) sum += weight(score_[size_t(i)]);
        of_block_[size_t(b)] = sum;
      }
    });
    sum_ = std::accumulate(of_block_.begin(), of_block_.end(), uint64_t{0});
  }
  std::span<const float> score_;
  float best_, scale_;
  double least_ = -std::numeric_limits<double>::infinity();
  std::vector<uint64_t> of_block_;
  uint64_t sum_ = 0;
};

}  // namespace

int32_t drawn(std::span<const float> logits, const Drawing& how) {
  if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) return -1;
  const Kept kept(logits, how);
  return kept.at(high_product(how.random, kept.sum()));
}

std::vector<std::pair<int32_t, double>> candidates(std::span<const float> scores, const Drawing& how) {
  const Kept kept(scores, how);
  std::vector<std::pair<int32_t, double>> all;
  for (size_t i = 0; i < scores.size(); ++i)
    if (kept.has(scores[i])) all.emplace_back(int32_t(i), double(kept.weight(scores[i])) / double(kept.sum()));
  std::stable_sort(all.begin(), all.end(), [&](const auto& a, const auto& b) { return scores[size_t(a.first)] > scores[size_t(b.first)]; });
  return all;
}

void draw(Stream& s, Tensor ids, Tensor logits, std::span<const std::optional<Drawing>> rows) {
  check(logits.shape.rank() == 2 && logits.shape[0] == std::ssize(rows) && logits.dtype == DType::f32 && logits.shape[1] > 0 && logits.shape[1] < most_tokens, "draw: logits are (T, V) f32, below 2^19 tokens");
  check(ids.dtype == DType::i32 && ids.shape == Shape{logits.shape[0]}, "draw: ids are (T) i32");
  Work work{.name = "draw"};
  for (const auto& how : rows) {
    check(!how || how->temperature > 0, "draw: the temperature is above 0");
    if (how) work.bytes += double(logits.shape[1] * size_of(logits.dtype) + size_of(ids.dtype));
  }
  launch(
      s, work,
      [&] {
        for (size_t i = 0; i < rows.size(); ++i)
          if (rows[i]) ids.get<int32_t>()[i] = drawn({logits.get<float>() + int64_t(i) * logits.shape[1], size_t(logits.shape[1])}, *rows[i]);
      },
      [&](auto& cuda) { draw_cuda(cuda, ids, logits, rows); });
}

}  // namespace thimble::ops
