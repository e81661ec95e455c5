// The matrices that read one input, with their adapters, forward and backward: what attention and mlp are made of.
#pragma once
#include "nn/saved.h"
#include "ops/linear.h"

namespace thimble::nn {

// Each y (T, N) = x . w^T + s (x . A^T) . B^T + bias + plus, overwritten; `ys` by the group's members; plus (T, N): null, or what is added besides.
void project(comm::Rank&, std::initializer_list<Tensor> ys, Tensor x, const LayerParams&, LayerGroup, Saved&, Tensor plus = {});
// The same where text is generated, of the normed x, and with what comes after (`after.bias` is filled in here).
void project_few(comm::Rank&, std::initializer_list<Tensor> ys, Tensor x, const LayerParams&, LayerGroup, Saved&, ops::Norm, ops::After = {}, Tensor plus = {});
// dx (T, K) overwritten, null: not wanted; the gradients of w, A, B and the bias added to. x is what forward read (null when nothing asks for it).
void project_backward(comm::Rank&, Tensor dx, std::initializer_list<Tensor> dys, Tensor x, const LayerParams&, const LayerGrads&, LayerGroup, Saved&);
// Does backward read the matrices' input? (for the adapters', or the weights' own gradients)
bool wants_input(const LayerParams&, const LayerGrads&, LayerGroup);

}  // namespace thimble::nn
