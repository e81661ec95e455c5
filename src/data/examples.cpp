// Picks are eight bytes an example, whatever the examples hold.
#include "data/examples.h"

#include <algorithm>

#include "base/xxh64.h"

namespace thimble::data {

std::vector<int32_t> Example::ids() const {
  std::vector<int32_t> all(tokens.size());
  for (int64_t t = 0; t < size(); ++t) all[size_t(t)] = id(t);
  return all;
}

std::vector<int32_t> Example::targets() const {
  std::vector<int32_t> all(tokens.size());
  for (int64_t t = 0; t < size(); ++t) all[size_t(t)] = target(t);
  return all;
}

TokenPool::TokenPool(std::vector<uint32_t> tokens, std::vector<int64_t> ends) : own_tokens_(std::move(tokens)), own_ends_(std::move(ends)) {
  tokens_ = own_tokens_, ends_ = own_ends_;
  check(std::is_sorted(ends_.begin(), ends_.end()) && (ends_.empty() ? 0 : ends_.back()) == int64_t(tokens_.size()), "examples lie one after another");
  Xxh64 hash;
  hash.add(tokens_.data(), int64_t(tokens_.size_bytes()));
  hash.add(ends_.data(), int64_t(ends_.size_bytes()));
  hash_ = hash.value();
}

Examples::Examples(std::shared_ptr<const TokenPool> all) : pools_{std::move(all)} {
  check(pools_[0]->size() < int64_t{1} << 32, "a pool has less than 2^32 examples");
  for (int64_t i = 0; i < pools_[0]->size(); ++i) picks_.push_back({0, uint32_t(i)});
}

int64_t Examples::tokens() const {
  int64_t n = 0;
  for (int64_t i = 0; i < size(); ++i) n += length(i);
  return n;
}

void Examples::add(const Examples& from, int64_t i) {
  const Pick p = from.picks_[size_t(i)];
  const auto& pool = from.pools_[p.pool];
  auto at = std::find(pools_.begin(), pools_.end(), pool);  // there are as many as files
  if (at == pools_.end()) at = pools_.insert(at, pool);
  picks_.push_back({uint32_t(at - pools_.begin()), p.example});
}

uint64_t Examples::hash() const {
  Xxh64 hash;
  for (const auto& pool : pools_) {
    const uint64_t h = pool->hash();
    hash.add(&h, sizeof h);
  }
  hash.add(picks_.data(), int64_t(picks_.size() * sizeof(Pick)));
  return hash.value();
}

}  // namespace thimble::data
