// Heads are views of (T, H D) as (T, H, D): no transposes, no copies.
#include "nn/attention.h"

#include <cmath>
#include <vector>

#include "nn/project.h"
#include "ops/rope.h"

namespace thimble::nn {
namespace {

Tensor heads(Tensor t, int64_t head_dim) { return t.view({t.shape[0], t.shape[1] / head_dim, head_dim}); }

// (T, H D) as rows of heads (T H, D), which norms of heads read.
Tensor rows_of_heads(Tensor t, int64_t head_dim) { return t.view({t.count() / head_dim, head_dim}); }

ops::AttentionShape attention_shape(const Context& c, const LayerSpec& l, int64_t first = 0) {
  const float divisor = c.model->query_scalar > 0 ? float(c.model->query_scalar) : float(l.head_dim);
  return {.start = c.start, .longest = c.longest, .document = c.document, .first = first, .scale = 1.0f / std::sqrt(divisor), .window = l.window,
          .cap = c.model->attention_cap};
}

// Keys and values are made where later tokens will read them.
void place_in_cache(const Context& c, Saved& s) {
  if (c.caches.size() != 1) return;
  const auto& [keys, values, first] = c.caches.front();
  s.set(k, keys.rows(first, s.shapes().tokens));
  s.set(v, values.rows(first, s.shapes().tokens));
}

ops::HeadNorms head_norms(const LayerParams& p, const Context& c) {
  const auto of_q = norm_by(c, p.weight[q_norm]), of_k = norm_by(c, p.weight[k_norm]);
  return {{of_q.weight, of_k.weight}, of_q.eps, of_q.offset};
}

// Each q and k that backward may read: turned, and before the norms of heads.
bool has_qkv(const Saved& s) {
  if (!s.ready(q) || !s.ready(k) || !s.ready(v)) return false;
  return !s.shapes().layer.head_norms || (s.ready(q_plain) && s.ready(k_plain) && s.ready(rstd_q) && s.ready(rstd_k));
}

}  // namespace

Tensor Attention::made_norm(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (!s.ready(normed_attention) || !s.ready(rstd_attention)) {
    const Tensor y = s.make(r, normed_attention);
    norm(r, c, y, s.make(r, rstd_attention), x, p.weight[norm_attention]);
  }
  return s[normed_attention];
}

void Attention::made_qkv(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (has_qkv(s)) return;
  const LayerSpec& layer = s.shapes().layer;
  const int64_t d = layer.head_dim, tokens = s.shapes().tokens;
  place_in_cache(c, s);
  const bool chunked = c.chunk > 0 && tokens > c.chunk;
  if (!chunked && !p.generating) made_norm(r, p, c, x, s);  // below q, k and v: backward may read it
  const Tensor to_q = s.make(r, q), to_k = s.make(r, k);
  s.make(r, v);
  const bool normed_apart = layer.head_norms && !p.generating;  // backward reads what the norms of heads did
  const SavedName q_made = normed_apart ? q_plain : q, k_made = normed_apart ? k_plain : k;
  const Tensor from_q = s.make(r, q_made), from_k = s.make(r, k_made);
  const bool turned_there = p.generating && !layer.head_norms;
  in_chunks(r, s, c.chunk, [&](Saved& part, int64_t first, int64_t n) {
    const auto made = {part[q_made], part[k_made], part[v]};
    if (!p.generating) return project(r, made, made_norm(r, p, c, x.rows(first, n), part), p, qkv_group, part);
    ops::After after;
    if (turned_there) after.turn = turn(c, layer), after.turn.positions = c.positions.rows(first, n);
    project_few(r, made, x.rows(first, n), p, qkv_group, part, norm_by(c, p.weight[norm_attention]), after);
  });
  const std::initializer_list<Tensor> turning{heads(to_q, d), heads(to_k, d)};
  if (normed_apart) {
    norm(r, c, rows_of_heads(to_q, d), s.make(r, rstd_q), rows_of_heads(from_q, d), p.weight[q_norm]);
    norm(r, c, rows_of_heads(to_k, d), s.make(r, rstd_k), rows_of_heads(from_k, d), p.weight[k_norm]);
  }
  const ops::Turn by = turn(c, layer);
  if (layer.head_norms && p.generating) {
    ops::norm_and_rope(r.stream, turning, head_norms(p, c), by.positions, by.inv_freq, by.factor);
  } else if (!turned_there) {
    ops::rope(r.stream, turning, by.positions, by.inv_freq, by.factor);
  }
}

void Attention::place(comm::Rank& r, const Context& c, Saved& s) {
  place_in_cache(c, s);
  for (const SavedName n : {q, k, v, attended}) s.make(r, n);
  if (s.shapes().layer.head_norms) s.make(r, k_plain);
}

ops::Turn Attention::turn(const Context& c, const LayerSpec& l) {
  const RopeTable& rope = c.rope->of(l);
  return {c.positions, rope.inv_freq, rope.factor, l.head_dim};
}

ops::Attend Attention::of_one(const LayerParams& p, const Context& c, const Saved& s) {
  const LayerSpec& layer = s.shapes().layer;
  const int64_t d = layer.head_dim;
  const auto& [keys, values, first] = c.caches.front();
  ops::Attend a{heads(s[q], d), heads(keys.rows(0, first + 1), d), heads(values.rows(0, first + 1), d), attention_shape(c, layer, first)};
  if (layer.head_norms) a.norms = head_norms(p, c), a.turn = turn(c, layer), a.last = s[k_plain];
  return a;
}

void Attention::made_attended(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (s.ready(attended) && s.ready(lse)) return;
  made_qkv(r, p, c, x, s);
  const LayerSpec& layer = s.shapes().layer;
  const int64_t d = layer.head_dim, tokens = s.shapes().tokens;
  const Tensor y = s.make(r, attended), sums = s.make(r, lse);
  if (c.caches.empty())
    return ops::attention(r.stream, heads(y, d), sums, heads(s[q], d), heads(s[k], d), heads(s[v], d), attention_shape(c, layer));
  if (c.caches.size() > 1) {
    std::vector<ops::Cached> all;
    for (const auto& [keys, values, first] : c.caches) all.push_back({heads(keys.rows(0, first + 1), d), heads(values.rows(0, first + 1), d), first});
    return ops::attention(r.stream, heads(y, d), heads(s[q], d), heads(s[k], d), heads(s[v], d), all, attention_shape(c, layer));
  }
  const auto& [keys, values, first] = c.caches.front();
  ops::attention(r.stream, heads(y, d), sums, heads(s[q], d), heads(keys.rows(0, first + tokens), d), heads(values.rows(0, first + tokens), d), attention_shape(c, layer, first));
}

Tensor Attention::made_out(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  if (!s.ready(attention_out)) {
    made_attended(r, p, c, x, s);
    project(r, {s.make(r, attention_out)}, s[attended], p, o_group, s);
  }
  return s[attention_out];
}

void Attention::forward(comm::Rank& r, const LayerParams& p, const Context& c, Tensor y, Tensor x, Saved& s) {
  if (s.shapes().layer.norms_after) {
    const Tensor out = made_out(r, p, c, x, s);
    return norm(r, c, y, s.make(r, rstd_attention_out), out, p.weight[norm_after_attention], x);
  }
  made_attended(r, p, c, x, s);
  project(r, {y}, s[attended], p, o_group, s, x);
}

void Attention::remake(comm::Rank& r, const LayerParams& p, const Context& c, Tensor x, Saved& s) {
  made_qkv(r, p, c, x, s);
  made_attended(r, p, c, x, s);
  if (s.shapes().layer.norms_after) made_out(r, p, c, x, s);
}

void Attention::backward(comm::Rank& r, const LayerParams& p, const LayerGrads& g, const Context& c, Tensor d, Tensor x, Saved& s, bool into_input) {
  remake(r, p, c, x, s);
  const auto& shapes = s.shapes();
  const int64_t dim = shapes.layer.head_dim;
  const auto temporary = [&](const char* name, SavedName like) { return r.memory.take(Use::activations, name, shapes.dtype(like), shapes.shape(like)); };

  Tensor dout = d;
  if (shapes.layer.norms_after) {
    const Tensor out = s[attention_out];
    dout = temporary("d attention out", attention_out);
    if (!s.ready(rstd_attention_out)) norm(r, c, dout, s.make(r, rstd_attention_out), out, p.weight[norm_after_attention]);
    ops::zero(r.stream, dout);
    norm_backward(r, c, dout, g.weight[norm_after_attention], d, out, p.weight[norm_after_attention], s[rstd_attention_out]);
  }
  const Tensor dattended = temporary("d attended", attended);
  project_backward(r, dattended, {dout}, s[attended], p, g, o_group, s);
  const ops::AttentionGrad dqkv{temporary("d q", q), temporary("d k", k), temporary("d v", v)};
  ops::attention_backward(r.stream, {heads(dqkv.dq, dim), heads(dqkv.dk, dim), heads(dqkv.dv, dim)}, heads(dattended, dim), heads(s[attended], dim), s[lse],
                          heads(s[q], dim), heads(s[k], dim), heads(s[v], dim), attention_shape(c, shapes.layer));
  const RopeTable& rope = c.rope->of(shapes.layer);
  ops::rope_backward(r.stream, {heads(dqkv.dq, dim), heads(dqkv.dk, dim)}, c.positions, rope.inv_freq, rope.factor);
  Tensor dq = dqkv.dq, dk = dqkv.dk;
  if (shapes.layer.head_norms) {
    const auto through = [&](Tensor dy, SavedName plain, SavedName rstd, LayerParam w) {
      const Tensor dx = temporary("d before norm", plain);
      ops::zero(r.stream, dx);
      norm_backward(r, c, rows_of_heads(dx, dim), g.weight[w], rows_of_heads(dy, dim), rows_of_heads(s[plain], dim), p.weight[w], s[rstd]);
      return dx;
    };
    dq = through(dq, q_plain, rstd_q, q_norm);
    dk = through(dk, k_plain, rstd_k, k_norm);
  }

  in_chunks(r, s, c.chunk, [&](Saved& part, int64_t first, int64_t n) {
    const Tensor from = x.rows(first, n), normed = wants_input(p, g, qkv_group) ? made_norm(r, p, c, from, part) : Tensor{};
    const Tensor dnorm = into_input ? r.memory.take(Use::activations, "d normed", shapes.compute, {n, shapes.hidden}) : Tensor{};
    project_backward(r, dnorm, {dq.rows(first, n), dk.rows(first, n), dqkv.dv.rows(first, n)}, normed, p, g, qkv_group, part);
    if (!into_input) return;
    if (!part.ready(rstd_attention)) made_norm(r, p, c, from, part);
    norm_backward(r, c, d.rows(first, n), g.weight[norm_attention], dnorm, from, p.weight[norm_attention], part[rstd_attention]);
  });
}

}  // namespace thimble::nn
