// Ties at the edge of top-k all stay, and top-p keeps the token that crosses it, both as in transformers.
#include "serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/json.h"
#include "base/threads.h"

namespace thimble::serve {
namespace {

void check_finite(bool finite) {
  if (!finite)
    throw Error(Fault::bad_input, {.what = "the model's logits are not numbers", .where = "the token after the text so far", .expected = "finite logits", .found = "NaN or infinity",
                                   .fix = "thimble inspect MODEL --check-tensors says whether the weights are damaged"});
}

// Ids by falling score, equals by id: sorted only as far as somebody asks, since few of a vocabulary are likely.
class Falling {
 public:
  Falling(std::span<const double> score, double best, double step) : score_(score), down_to_(best - step), step_(step) {}
  int32_t operator[](size_t n) {  // below how many scores there are
    while (n >= ids_.size()) reach();
    return ids_[n];
  }
  size_t count_down_to(double least) {  // those of at least this score
    while (above_ > least) reach();
    return size_t(std::partition_point(ids_.begin(), ids_.end(), [&](int32_t id) { return score_[size_t(id)] >= least; }) - ids_.begin());
  }

 private:
  void reach() {
    const auto known = std::ptrdiff_t(ids_.size());
    for (size_t i = 0; i < score_.size(); ++i)
      if (score_[i] < above_ && score_[i] >= down_to_) ids_.push_back(int32_t(i));
    std::sort(ids_.begin() + known, ids_.end(), [&](int32_t a, int32_t b) {
      const double x = score_[size_t(a)], y = score_[size_t(b)];
      return x > y || (x == y && a < b);
    });
    above_ = down_to_;
    step_ *= 2;
    down_to_ -= step_;
  }
  std::span<const double> score_;
  std::vector<int32_t> ids_;
  double above_ = std::numeric_limits<double>::infinity(), down_to_, step_;
};

// What may be drawn of these scores, likeliest first.
class Choice {
 public:
  Choice(std::span<const double> score, const Sampling& how)
      : score_(score), likeliest_(std::max_element(score.begin(), score.end())), best_(*likeliest_), temperature_(how.temperature),
        order_(score_, best_, std::max(how.temperature / 2, 1e-3)), count_(score_.size()) {
    if (temperature_ <= 0) {
      count_ = 1;
      return;
    }
    const bool top_k = how.top_k > 0 && size_t(how.top_k) < count_;
    if (top_k) count_ = order_.count_down_to(score_[size_t(order_[size_t(how.top_k) - 1])]);
    double all = 0;
    for (size_t n = 0; top_k && n < count_; ++n) all += weight(n);
    if (!top_k && (how.top_p < 1 || how.min_p <= 0)) all = sum_of_all();
    sum_ = all;
    if (how.top_p >= 1 && how.min_p <= 0) return;
    const double enough = how.top_p < 1 ? how.top_p * all : std::numeric_limits<double>::infinity();
    size_t n = 0;
    for (sum_ = 0; n < count_ && (n == 0 || (sum_ < enough && weight(n) >= how.min_p)); ++n) sum_ += weight(n);
    count_ = n;
  }
  size_t count() const { return count_; }
  int32_t id(size_t n) { return temperature_ > 0 ? order_[n] : int32_t(likeliest_ - score_.begin()); }
  double probability(size_t n) { return temperature_ > 0 ? weight(n) / sum_ : 1; }

 private:
  double weight_of(double score) const { return std::exp((score - best_) / temperature_); }  // of the likeliest: 1
  double weight(size_t n) { return weight_of(score_[size_t(order_[n])]); }
  double sum_of_all() const {
    constexpr int64_t block = 4096;  // a sum of sums, which threads do not change
    const auto n = int64_t(score_.size()), blocks = (n + block - 1) / block;
    std::vector<double> sums(static_cast<size_t>(blocks));
    parallel_for(blocks, 2, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b)
        for (int64_t i = b * block; i < std::min(n, (b + 1) * block); ++i) sums[size_t(b)] += weight_of(score_[size_t(i)]);
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }
  std::span<const double> score_;
  std::span<const double>::iterator likeliest_;
  double best_, temperature_, sum_ = 1;
  Falling order_;
  size_t count_;
};

}  // namespace

Sampling read_sampling(const fs::path& folder) {
  Sampling s;
  const auto file = folder / "generation_config.json";
  if (!fs::exists(file)) return s;
  const std::string where = file.string();
  const Json c = parse_json(read_text(file, int64_t{16} << 20), where);
  if (!c.is_object()) fail_field(where, "generation_config.json", "an object", &c);
  const auto number = [&](const char* key, double otherwise, double least, double most) {
    const double v = value_or<double>(c, key, otherwise, where);
    if (!(v >= least && v <= most)) fail_field(where, key, fmt::format("a number from {} to {}", least, most), &c[key]);
    return v;
  };
  s.repetition_penalty = number("repetition_penalty", 1, 1e-6, 1e6);
  const double temperature = number("temperature", 1, 0, 1e6);
  s.top_k = int64_t(number("top_k", 50, 0, 1 << 24));  // transformers' own default
  s.top_p = number("top_p", 1, 0, 1);
  s.min_p = number("min_p", 0, 0, 1);
  if (value_or(c, "do_sample", false, where)) s.temperature = temperature;
  return s;
}

void Sampler::begin(std::span<const int32_t> prompt) {
  seen_.clear();
  for (const int32_t id : prompt) seen_[id].in_prompt = true;
}

bool Sampler::takes_likeliest() const {
  return how_.temperature <= 0 && how_.repetition_penalty == 1 && how_.presence_penalty == 0 && how_.frequency_penalty == 0;
}

int32_t Sampler::take(int32_t likeliest) {
  check_finite(likeliest >= 0);
  ++seen_[likeliest].in_answer;
  return likeliest;
}

std::span<const double> Sampler::scores(std::span<const float> logits) const {
  bool finite = true;
  for (const float x : logits) finite &= std::abs(x) <= std::numeric_limits<float>::max();
  check_finite(finite);
  scores_.assign(logits.begin(), logits.end());
  for (const auto& [id, seen] : seen_) {
    if (id < 0 || size_t(id) >= scores_.size()) continue;
    double& x = scores_[size_t(id)];
    x = x > 0 ? x / how_.repetition_penalty : x * how_.repetition_penalty;
    x -= how_.presence_penalty * double(seen.in_answer > 0) + how_.frequency_penalty * double(seen.in_answer);
  }
  return scores_;
}

std::vector<std::pair<int32_t, double>> Sampler::candidates(std::span<const float> logits) const {
  Choice of(scores(logits), how_);
  std::vector<std::pair<int32_t, double>> all;
  for (size_t n = 0; n < of.count(); ++n) all.emplace_back(of.id(n), of.probability(n));
  return all;
}

int32_t Sampler::next(std::span<const float> logits) {
  Choice of(scores(logits), how_);
  size_t n = 0;
  if (of.count() > 1)
    for (double at = double(draws_.uniform()); (at -= of.probability(n)) >= 0 && n + 1 < of.count();) ++n;
  const int32_t id = of.id(n);
  ++seen_[id].in_answer;
  return id;
}

}  // namespace thimble::serve
