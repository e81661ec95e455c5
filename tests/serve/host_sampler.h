// A sampler that draws of a row on the host, after penalties of its own counts: what ops::penalize and ops::draw are compared with.
#pragma once
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ops/argmax.h"
#include "serve/sampler.h"

namespace thimble::serve {

class HostSampler : public Sampler {
 public:
  using Sampler::Sampler;
  void begin(std::span<const int32_t> prompt) {  // a new answer
    seen_.clear();
    for (const int32_t id : prompt) seen_[id];
  }
  int32_t next(std::span<const float> logits) {
    const auto all = scores(logits);
    const auto how = drawing();
    const int32_t id = take(how ? ops::drawn(all, *how) : ops::likeliest(all));
    ++seen_[id];
    return id;
  }
  // What next() would draw from, likeliest first, with probabilities; one entry where it is greedy; of finite logits.
  std::vector<std::pair<int32_t, double>> candidates(std::span<const float> logits) const {
    const auto all = scores(logits);
    const auto how = drawing();
    return how ? ops::candidates(all, *how) : std::vector<std::pair<int32_t, double>>{{ops::likeliest(all), 1}};
  }

 private:
  std::vector<float> scores(std::span<const float> logits) const {
    std::vector<float> all(logits.begin(), logits.end());
    for (const auto& [id, in_answer] : seen_)
      if (size_t(id) < all.size() && penalties().any()) all[size_t(id)] = ops::penalized(logits[size_t(id)], in_answer, penalties());
    return all;
  }
  std::unordered_map<int32_t, int64_t> seen_;  // of the text: how often in its answer
};

}  // namespace thimble::serve
