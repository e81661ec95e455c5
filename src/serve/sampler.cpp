// Sorting is over the kept candidates only; the draw walks the cumulative probabilities in double.
#include "serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace thimble::serve {

int32_t Sampler::next(std::span<const float> logits) {
  const auto best = int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (how_.temperature <= 0) return best;
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  size_t kept = how_.top_k > 0 ? std::min(size_t(how_.top_k), order.size()) : order.size();
  const auto more = [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)] || (logits[size_t(a)] == logits[size_t(b)] && a < b); };
  std::partial_sort(order.begin(), order.begin() + std::ptrdiff_t(kept), order.end(), more);
  std::vector<double> weight(kept);
  double sum = 0;
  for (size_t i = 0; i < kept; ++i) sum += weight[i] = std::exp((double(logits[size_t(order[i])]) - double(logits[size_t(best)])) / how_.temperature);
  double cumulative = 0;
  for (size_t i = 0; i < kept; ++i) {
    cumulative += weight[i];
    if (cumulative >= how_.top_p * sum) kept = i + 1;
  }
  double at = double(draws_.uniform()) * std::min(cumulative, std::accumulate(weight.begin(), weight.begin() + std::ptrdiff_t(kept), 0.0));
  for (size_t i = 0; i < kept; ++i)
    if ((at -= weight[i]) < 0) return order[i];
  return order[kept - 1];
}

}  // namespace thimble::serve
