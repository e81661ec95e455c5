// One matrix of a layer with its adapter, forward and backward: what attention and mlp are made of.
#pragma once
#include "nn/saved.h"
#include "ops/linear.h"

namespace thimble::nn {

// y (T, N) = x . w^T + s (x . A^T) . B^T, overwritten
void project(comm::Rank&, Tensor y, Tensor x, const LayerParams&, int param, Saved&);
// dx (T, K) overwritten or (add) added to, null: not wanted; the gradients of w, A, B added to. x is what forward read (null when nothing asks for it).
void project_backward(comm::Rank&, Tensor dx, bool add, Tensor dy, Tensor x, const LayerParams&, const LayerGrads&, int param, Saved&);
// Does backward read the matrix's input? (for the adapter's, or the weight's own gradient)
bool wants_input(const LayerParams&, const LayerGrads&, int param);

}  // namespace thimble::nn
