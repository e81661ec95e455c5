// Interleaving follows Hugging Face datasets' interleave_datasets, first_exhausted, all_exhausted and all_exhausted_without_replacement, with our own random numbers.
#include "data/mix.h"

#include <algorithm>
#include <cmath>

#include "base/philox.h"
#include "data/batches.h"

namespace thimble::data {
namespace {

constexpr Choice mix_names[] = {{"concat", int(Mix::concat)}, {"interleave_under", int(Mix::under)}, {"interleave_over", int(Mix::over)},
                                {"interleave_once", int(Mix::once)}};

}  // namespace

std::span<const Choice> names_of(Mix) { return mix_names; }

Examples mix(std::span<const Examples> sets, Mix how, std::span<const double> probabilities, uint64_t seed) {
  check(probabilities.empty() || probabilities.size() == sets.size(), "a probability for each dataset");
  Examples all;
  if (how == Mix::concat || sets.size() < 2) {
    for (const Examples& s : sets) all.add(s);
    return all;
  }
  std::vector<double> below;  // cumulated
  for (const double p : probabilities) below.push_back((below.empty() ? 0 : below.back()) + p);
  std::vector<int64_t> next(sets.size());
  std::vector<bool> ended(sets.size());
  Draws draws{seed, stream_of(Purpose::mixing)};
  for (size_t turn = 0;; ++turn) {
    size_t s = turn % sets.size();
    if (!below.empty()) {
      const double x = double(draws.bits()) * 0x1p-32 * below.back();
      s = size_t(std::min<ptrdiff_t>(std::upper_bound(below.begin(), below.end(), x) - below.begin(), ptrdiff_t(sets.size()) - 1));
    }
    if (how == Mix::once && ended[s]) continue;
    all.add(sets[s], next[s]);
    if (++next[s] < sets[s].size()) continue;
    next[s] = 0;
    ended[s] = true;
    if (how == Mix::under || std::find(ended.begin(), ended.end(), false) == ended.end()) return all;
  }
}

Examples choose(const Examples& all, int64_t samples, uint64_t seed) {
  Examples chosen;
  for (int64_t round = 0; chosen.size() < samples; ++round) {
    const auto order = permutation(all.size(), seed, stream_of(Purpose::sampling, round));
    for (int64_t i = 0; i < all.size() && chosen.size() < samples; ++i) chosen.add(all, order[size_t(i)]);
  }
  return chosen;
}

std::pair<Examples, Examples> split(const Examples& all, double val_size, uint64_t seed) {
  check(std::isfinite(val_size) && val_size >= 0, "val_size is a share or a count");
  const double wanted = val_size < 1 ? std::ceil(val_size * double(all.size())) : std::floor(val_size);
  const auto count = int64_t(std::min(wanted, double(std::max<int64_t>(0, all.size() - 1))));
  const std::vector<uint32_t> order = permutation(all.size(), seed, stream_of(Purpose::evaluation_choice));
  std::vector<bool> aside(order.size());
  for (int64_t i = 0; i < count; ++i) aside[order[size_t(i)]] = true;
  std::pair<Examples, Examples> parts;
  for (int64_t i = 0; i < all.size(); ++i) (aside[size_t(i)] ? parts.second : parts.first).add(all, i);
  return parts;
}

}  // namespace thimble::data
