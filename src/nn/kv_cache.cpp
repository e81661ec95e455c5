// A window's rows move by as many rows as are free before them, so that no piece of the move overlaps what it is copied from.
#include "nn/kv_cache.h"

#include <algorithm>

#include "ops/elementwise.h"

namespace thimble::nn {

KvCache::KvCache(comm::Rank& rank, const ModelSpec& model, int64_t tokens, int64_t step) : capacity_(tokens) {
  for (size_t l = 0; l < model.layers.size(); ++l) {
    const LayerSpec& of = model.layers[l];
    // A move of the window every eighth of it, at most: eight rows a token beside the whole window that each token reads.
    const int64_t rows = of.window > 0 ? std::min(tokens, of.window - 1 + std::max(step, of.window / 8)) : tokens;
    const Shape shape{rows, of.kv_heads * of.head_dim};
    rank.ledger.at_layer(int(l));
    const Tensor keys = rank.memory.take(Use::cache, "keys", rank.compute(), shape);
    layers_.push_back({keys, rank.memory.take(Use::cache, "values", rank.compute(), shape), of.window});
  }
  rank.ledger.at_layer(-1);
}

LayerCache KvCache::make_room(comm::Rank& rank, int layer, int64_t tokens) {
  Layer& l = layers_[size_t(layer)];
  const int64_t held = length_ - l.gone;
  if (held + tokens > l.keys.shape[0]) {
    const int64_t kept = std::min(held, l.window - 1), by = held - kept;
    check(l.window > 0 && kept + tokens <= l.keys.shape[0], "a step of a cache has no more tokens than it was made for");
    for (const Tensor& t : {l.keys, l.values})
      for (int64_t at = 0; at < kept; at += by) {
        const int64_t n = std::min(by, kept - at);
        ops::convert(rank.stream, t.rows(at, n), t.rows(at + by, n));
      }
    l.gone += by;
  }
  return {l.keys, l.values, length_ - l.gone};
}

void KvCache::cut_to(int64_t tokens) {
  const auto seen = [&](const Layer& l) { return l.gone == 0 || l.gone <= tokens - (l.window - 1); };
  if (tokens == 0 || !std::all_of(layers_.begin(), layers_.end(), seen)) {
    for (Layer& l : layers_) l.gone = 0;
    tokens = 0;
  }
  length_ = tokens;
}

void KvCache::pretend(int64_t tokens) {
  for (Layer& l : layers_) l.gone = std::max<int64_t>(0, tokens - l.keys.shape[0]);
  length_ = tokens;
}

}  // namespace thimble::nn
