// Heads are views of (T, H D) as (T, H, D): no transposes, no copies.
#include "nn/attention.h"

#include <cmath>

#include "nn/project.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"

namespace thimble::nn {
namespace {

Tensor heads(Tensor t, int64_t head_dim) { return t.view({t.shape[0], t.shape[1] / head_dim, head_dim}); }

ops::AttentionShape attention_shape(const Context& c, const LayerSpec& l) {
  return {.start = c.start, .longest = c.longest, .document = c.document, .first = c.first, .scale = 1.0f / std::sqrt(float(l.head_dim))};
}

}  // namespace

Tensor Attention::made_norm(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (!s.ready(normed_attention) || !s.ready(rstd_attention)) {
    const Tensor y = s.make(r, normed_attention);
    ops::rms_norm(r.stream, y, s.make(r, rstd_attention), x, p.weight[norm_attention].dense(), c.eps);
  }
  return s[normed_attention];
}

void Attention::made_qkv(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (s.ready(q) && s.ready(k) && s.ready(v)) return;
  const int64_t d = s.shapes().layer.head_dim, tokens = s.shapes().tokens;
  const Tensor n = made_norm(r, p, c, x, s);
  if (c.cache_k) {  // keys and values are made where later tokens will read them
    s.set(k, c.cache_k.rows(c.first, tokens));
    s.set(v, c.cache_v.rows(c.first, tokens));
  }
  const Tensor to_q = s.make(r, q), to_k = s.make(r, k), to_v = s.make(r, v);
  project(r, {to_q, to_k, to_v}, n, p, qkv_group, s);
  ops::rope(r.stream, heads(s[q], d), c.positions, c.inv_freq);
  ops::rope(r.stream, heads(s[k], d), c.positions, c.inv_freq);
}

void Attention::made_attended(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (s.ready(attended) && s.ready(lse)) return;
  made_qkv(r, p, c, x, s);
  const int64_t d = s.shapes().layer.head_dim, seen = c.first + s.shapes().tokens;
  const Tensor keys = c.cache_k ? c.cache_k.rows(0, seen) : s[k], values = c.cache_v ? c.cache_v.rows(0, seen) : s[v];
  const Tensor y = s.make(r, attended);
  ops::attention(r.stream, heads(y, d), s.make(r, lse), heads(s[q], d), heads(keys, d), heads(values, d), attention_shape(c, s.shapes().layer));
}

void Attention::forward(comm::Rank& r, const LayerParams& p, const Context& c, Tensor y, Tensor x, Saved& s) {
  made_attended(r, p, c, x, s);
  project(r, {y}, s[attended], p, o_group, s, x);
}

void Attention::backward(comm::Rank& r, const LayerParams& p, const LayerGrads& g, const Context& c, Tensor d, Tensor x, Saved& s, bool into_input) {
  made_qkv(r, p, c, x, s);
  made_attended(r, p, c, x, s);
  const auto& shapes = s.shapes();
  const int64_t dim = shapes.layer.head_dim;
  const auto temporary = [&](const char* name, SavedName like) { return r.memory.take(Use::activations, name, shapes.dtype(like), shapes.shape(like)); };

  const Tensor dattended = temporary("d attended", attended);
  project_backward(r, dattended, {d}, s[attended], p, g, o_group, s);
  const ops::AttentionGrad dqkv{temporary("d q", q), temporary("d k", k), temporary("d v", v)};
  ops::attention_backward(r.stream, {heads(dqkv.dq, dim), heads(dqkv.dk, dim), heads(dqkv.dv, dim)}, heads(dattended, dim), heads(s[attended], dim), s[lse],
                          heads(s[q], dim), heads(s[k], dim), heads(s[v], dim), attention_shape(c, shapes.layer));
  ops::rope_backward(r.stream, heads(dqkv.dq, dim), c.positions, c.inv_freq);
  ops::rope_backward(r.stream, heads(dqkv.dk, dim), c.positions, c.inv_freq);

  const Tensor n = wants_input(p, g, qkv_group) ? made_norm(r, p, c, x, s) : Tensor{};
  const Tensor dnorm = into_input ? temporary("d normed", normed_attention) : Tensor{};
  project_backward(r, dnorm, {dqkv.dq, dqkv.dk, dqkv.dv}, n, p, g, qkv_group, s);
  if (!into_input) return;
  if (!s.ready(rstd_attention)) made_norm(r, p, c, x, s);
  ops::rms_norm_backward(r.stream, d, g.weight[norm_attention], dnorm, x, p.weight[norm_attention].dense(), s[rstd_attention]);
}

}  // namespace thimble::nn
