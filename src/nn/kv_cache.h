// Keys and values of the tokens seen so far, one pair of tensors a layer: what decode reads instead of computing it again.
// A layer with a window holds only what a token can still see, and room for the tokens of one step: when that room is used up, the window moves
// to the front. So attention always finds its keys side by side, and the numbers are those of a cache that keeps all.
#pragma once
#include "comm/rank.h"
#include "nn/spec.h"

namespace thimble::nn {

// What a layer reads and fills in a step: keys and values (S, K D), of which `first` rows come before the step's.
struct LayerCache {
  Tensor keys, values;
  int64_t first = 0;
};

class KvCache {
 public:
  // Of one sequence of up to `tokens` positions, which come at most `step` at a time; in the type of activations.
  KvCache(comm::Rank&, const ModelSpec&, int64_t tokens, int64_t step);
  int64_t capacity() const { return capacity_; }
  int64_t length() const { return length_; }
  // The layer's cache with rows for so many more tokens.
  LayerCache make_room(comm::Rank&, int layer, int64_t tokens);
  void advance(int64_t tokens) { length_ += tokens; }
  // Forgets all after so many tokens, or all of them where a window has let go of what the next one would see. What is left: length().
  void cut_to(int64_t tokens);
  void pretend(int64_t tokens);  // as if so many had come: for a rehearsal

 private:
  struct Layer {
    Tensor keys, values;
    int64_t window, gone = 0;  // gone: the sequence's tokens before the first row
  };
  int64_t capacity_, length_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace thimble::nn
