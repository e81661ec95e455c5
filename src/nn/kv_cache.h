// Keys and values of the tokens seen so far, one pair of tensors a layer: what decode reads instead of computing it again.
#pragma once
#include "comm/rank.h"
#include "nn/spec.h"

namespace thimble::nn {

class KvCache {
 public:
  // Room for `tokens` positions of one sequence; (S, K D) a layer, in the type of activations.
  KvCache(comm::Rank& rank, const ModelSpec& model, int64_t tokens) : capacity_(tokens) {
    for (size_t l = 0; l < model.layers.size(); ++l) {
      const Shape shape{tokens, model.layers[l].kv_heads * model.layers[l].head_dim};
      rank.ledger.at_layer(int(l));
      keys_.push_back(rank.memory.take(Use::cache, "keys", rank.compute(), shape));
      values_.push_back(rank.memory.take(Use::cache, "values", rank.compute(), shape));
    }
    rank.ledger.at_layer(-1);
  }
  int64_t capacity() const { return capacity_; }
  int64_t length() const { return length_; }
  void advance(int64_t tokens) { length_ += tokens; }
  void cut_to(int64_t tokens) { length_ = tokens; }  // forget all after
  Tensor keys(int layer) const { return keys_[size_t(layer)]; }
  Tensor values(int layer) const { return values_[size_t(layer)]; }

 private:
  int64_t capacity_, length_ = 0;
  std::vector<Tensor> keys_, values_;
};

}  // namespace thimble::nn
