// cuDNN's attention for what it is fastest at: 16-bit heads of up to 128 channels, 256 on Hopper, documents of one length, no cache. Its backward adds
// parts of dq in an order that varies, so a run that asks for the same bits again does not take it.
#pragma once
#include <algorithm>
#include <cstdint>

#include "ops/attention.h"

namespace thimble::ops {

// What a plan must know: cuDNN may be taken, so its workspace is.
inline bool attention_may_take_cudnn(const DeviceSpec& spec, const Tensor& q) {
  const int64_t widest = spec.capability == 90 ? 256 : 128;
  return spec.kind == DeviceKind::cuda && spec.capability >= 80 && !spec.deterministic && q.dtype != DType::f32 && q.shape[2] % 8 == 0 && q.shape[2] <= widest;
}
// A function of types, shapes and the documents' length alone. What is asked of cuDNN then is whether it has the graphs. Those with a cap, a window or wide
// heads it compiles for half a second or more, each shape anew: they are for documents as long as any may be, whose shape comes again.
inline bool attention_suits_cudnn(const DeviceSpec& spec, const Tensor& q, const AttentionShape& a) {
  const bool counts_in_32_bits = a.document * q.shape[1] * q.shape[2] <= INT32_MAX;
  const bool ready_made = a.cap == 0 && (a.window == 0 || a.window >= a.document) && q.shape[2] <= 128;
  return attention_may_take_cudnn(spec, q) && counts_in_32_bits && a.first == 0 && a.document > 1 && (ready_made || a.document == a.longest) && q.shape[0] % a.document == 0;
}
constexpr int64_t attention_cudnn_forward_workspace = int64_t{16} << 20;  // a cap
// Backward asks for two f32 tensors of q's shape (dq; dk and dv by query head) and what surrounds them. So it runs in pieces, one after the other: some
// documents at a time or, where one alone is too long, some of its key/value heads, at least one.
constexpr int64_t attention_cudnn_piece = int64_t{32} << 20, attention_cudnn_fixed_workspace = int64_t{4} << 20;
inline int64_t attention_cudnn_workspace(const Tensor& q, const Tensor& k, const AttentionShape& a) {
  const int64_t longest = a.longest > 0 ? std::min(a.longest, q.shape[0]) : q.shape[0], of_one_group = longest * (q.shape[1] / k.shape[1]) * q.shape[2];
  return 8 * std::min(q.count(), std::max(attention_cudnn_piece, of_one_group)) + attention_cudnn_fixed_workspace;
}

// lse (B, H, L): by document, then head. As ops::attention otherwise. False, and nothing was done, where this cuDNN has no such graph: a forward with lse
// and its backward, which share it, agree.
bool attention_cudnn(CudaContext&, Tensor workspace, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape&);
bool attention_backward_cudnn(CudaContext&, const AttentionGrad&, Tensor workspace, Tensor dy, Tensor y, Tensor lse, Tensor q, Tensor k, Tensor v,
                              const AttentionShape&);

}  // namespace thimble::ops
