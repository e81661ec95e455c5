// Ties at the edge of top-k all stay, and top-p keeps the token that crosses it, both as in transformers.
#include "serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/json.h"

namespace thimble::serve {
namespace {

void check_finite(bool finite) {
  if (!finite)
    throw Error(Fault::bad_input, {.what = "the model's logits are not numbers", .where = "the token after the text so far", .expected = "finite logits", .found = "NaN or infinity",
                                   .fix = "thimble inspect MODEL --check-tensors says whether the weights are damaged"});
}

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

std::vector<std::pair<int32_t, double>> Sampler::candidates(std::span<const float> logits) const {
  check_finite(std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));
  std::vector<double> score(logits.begin(), logits.end());
  for (const auto& [id, seen] : seen_) {
    if (id < 0 || size_t(id) >= score.size()) continue;
    double& x = score[size_t(id)];
    x = x > 0 ? x / how_.repetition_penalty : x * how_.repetition_penalty;
    x -= how_.presence_penalty * double(seen.in_answer > 0) + how_.frequency_penalty * double(seen.in_answer);
  }
  const auto best = std::max_element(score.begin(), score.end());
  if (how_.temperature <= 0) return {{int32_t(best - score.begin()), 1.0}};
  std::vector<int32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  const auto more = [&](int32_t a, int32_t b) { return score[size_t(a)] > score[size_t(b)] || (score[size_t(a)] == score[size_t(b)] && a < b); };
  if (how_.top_k > 0 && size_t(how_.top_k) < order.size()) {
    std::nth_element(order.begin(), order.begin() + std::ptrdiff_t(how_.top_k) - 1, order.end(), more);
    const double edge = score[size_t(order[size_t(how_.top_k) - 1])];
    std::erase_if(order, [&](int32_t id) { return score[size_t(id)] < edge; });
  }
  std::sort(order.begin(), order.end(), more);
  std::vector<std::pair<int32_t, double>> kept;
  double sum = 0;
  for (const int32_t id : order) kept.emplace_back(id, std::exp((score[size_t(id)] - *best) / how_.temperature)), sum += kept.back().second;
  if (how_.top_p < 1) {
    double cumulative = 0, all = sum;
    size_t n = 0;
    while (n < kept.size() && (n == 0 || cumulative < how_.top_p * all)) cumulative += kept[n++].second;
    kept.resize(n);
    sum = cumulative;
  }
  const double least = how_.min_p * kept.front().second;
  while (kept.back().second < least) sum -= kept.back().second, kept.pop_back();
  for (auto& [id, p] : kept) p /= sum;
  return kept;
}

int32_t Sampler::next(std::span<const float> logits) {
  const auto from = candidates(logits);
  int32_t id = from.back().first;
  if (from.size() > 1) {
    double at = double(draws_.uniform());
    for (const auto& [candidate, p] : from) {
      if ((at -= p) < 0) {
        id = candidate;
        break;
      }
    }
  }
  ++seen_[id].in_answer;
  return id;
}

}  // namespace thimble::serve
