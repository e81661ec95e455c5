// RoPE's tables on the device: one of the model, another where some layers turn by another base. Those of dynamic NTK and LongRoPE depend on
// how long a sequence is: they are written anew before each pass, whatever the length, so that no plan depends on it.
#pragma once
#include "comm/rank.h"
#include "nn/spec.h"

namespace thimble::nn {

struct RopeTable {
  Tensor inv_freq;   // (pairs) f32
  float factor = 1;  // of cosines and sines
};

class RopeTables {
 public:
  RopeTables(comm::Rank&, const ModelSpec&);
  void load();
  void follow(int64_t length);  // before a pass over sequences of up to `length` positions
  const RopeTable& of(const LayerSpec& l) const { return l.local_rope ? local_ : global_; }

 private:
  RopeTable take(const RopeSpec&);
  void fill(const RopeSpec&, const RopeTable&, int64_t length);

  comm::Rank& rank_;
  const ModelSpec& model_;
  RopeTable global_, local_;
};

}  // namespace thimble::nn
