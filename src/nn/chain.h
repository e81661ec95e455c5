// A layer of one token as a chain of products, which a device may make one kernel of (ops/linear.h): where no adapter stands between.
#pragma once
#include "nn/context.h"

namespace thimble::nn {

// Is all that follows attention a chain?
bool chains(const LayerParams&, const SavedShapes&);
// y (T, C) of x, both overwritten as attention and the MLP would: q, k, v and attention too are links where they can be.
void chained(comm::Rank&, const LayerParams&, const Context&, Tensor y, Tensor x, Tensor mid, Saved&);

}  // namespace thimble::nn
