// A table is a few hundred bytes: it goes through a staging buffer of its own each time.
#include "nn/rope_tables.h"

#include <algorithm>
#include <cstring>

namespace thimble::nn {

RopeTables::RopeTables(comm::Rank& rank, const ModelSpec& model) : rank_(rank), model_(model) {
  const bool two = std::any_of(model.layers.begin(), model.layers.end(), [](const auto& l) { return l.local_rope; });
  global_ = take(model.rope);
  if (two) local_ = take(model.local_rope);
}

RopeTable RopeTables::take(const RopeSpec& rope) {
  const int64_t pairs = rope.pairs(model_.layers.front().head_dim);
  return {rank_.memory.take(Use::weights, "rope frequencies", DType::f32, {pairs}), float(rope.attention_factor)};
}

void RopeTables::fill(const RopeSpec& rope, const RopeTable& table, int64_t length) {
  const Scope scope(rank_.pinned);
  const Tensor staging = rank_.pinned.take(Use::scratch, "loading", DType::f32, table.inv_freq.shape);
  if (!rank_.is_phantom()) {
    const auto values = inverse_frequencies(rope, model_.layers.front().head_dim, length);
    std::memcpy(staging.data, values.data(), size_t(staging.bytes()));
  }
  rank_.upload("loading", table.inv_freq, staging);
}

void RopeTables::load() {
  fill(model_.rope, global_, 0);
  if (local_.inv_freq) fill(model_.local_rope, local_, 0);
}

void RopeTables::follow(int64_t length) {
  if (model_.rope.follows_length()) fill(model_.rope, global_, length);
  if (local_.inv_freq && model_.local_rope.follows_length()) fill(model_.local_rope, local_, length);
}

}  // namespace thimble::nn
