// A step is a stack: [gradient of the residual | x0 saved0 x1 saved1 ... xL | temporaries]. Backward pops what forward pushed.
#include "nn/decoder.h"

#include <algorithm>
#include <cmath>

#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"

namespace thimble::nn {

Decoder::Decoder(comm::Rank& rank, Model& model, const Execution& execution, int64_t max_tokens)
    : rank_(rank), model_(model), execution_(execution), rope_(rank, model.spec()) {
  const auto& spec = model.spec();
  if (execution_.save.empty()) execution_.save.assign(spec.layers.size(), all(Save::keep));
  check(execution_.save.size() == spec.layers.size(), "a plan says of each layer what is saved");
  int64_t largest = 0;
  for (int l = 0; l < int(spec.layers.size()); ++l) {
    const int64_t bytes = saved_of(l, max_tokens, execution_.save[size_t(l)]).offloaded_bytes();
    rank.ledger.at_layer(l);
    homes_.push_back(bytes ? rank.pinned.take(Use::activations, "offloaded", DType::u8, {bytes}) : Tensor{});
    largest = std::max(largest, bytes);
  }
  rank.ledger.at_layer(-1);
  if (largest) offload_ = std::make_unique<Ring>(rank.stream, rank.memory, "offloaded activations", execution_.offload_slots, largest);
}

void Decoder::load() { rope_.load(); }

Context Decoder::context(const Tokens& t) {
  rope_.follow(t.length);
  return {.positions = t.positions, .start = t.start, .rope = &rope_, .model = &model_.spec(), .longest = execution_.longest_document, .document = t.document};
}

// As transformers does, rounded to the type that is computed with.
float Decoder::embedding_scale() const {
  if (!model_.spec().scaled_embedding) return 1;
  float scale = std::sqrt(float(model_.spec().hidden));
  visit_float(rank_.compute(), [&]<class X>(X) { scale = float(X(scale)); });
  return scale;
}

void Decoder::embed(Tensor y, const Tokens& t) {
  ops::embedding(rank_.stream, y, t.ids, model_.embedding().dense());
  if (const float scale = embedding_scale(); scale != 1) ops::scale(rank_.stream, y, scale);
}

Saved Decoder::saved_of(int layer, int64_t tokens, const LayerSave& how) const {
  return Saved({.tokens = tokens, .hidden = model_.spec().hidden, .layer = model_.spec().layers[size_t(layer)], .lora = model_.method().lora,
                .compute = rank_.compute()}, how);
}

void Decoder::layer_forward(int layer, int next, const Context& c, Tensor y, Tensor x, Saved& s) {
  const Scope scope(rank_.memory);
  const LayerParams p = model_.acquire(rank_, layer, next);
  const Tensor mid = s.make(rank_, middle);
  {
    const Scope of_attention(rank_.memory);
    Attention::forward(rank_, p, c, mid, x, s);
  }
  Mlp::forward(rank_, p, c, y, mid, s);
  model_.release(layer);
}

void Decoder::layer_backward(int layer, int next, const Context& c, Tensor d, Tensor x, Saved& s) {
  const Scope scope(rank_.memory);
  const LayerParams p = model_.acquire(rank_, layer, next);
  const LayerGrads g = model_.gradients(layer);
  const bool anything_below = layer > 0 || model_.method().trains_weights;
  if (!s.ready(middle)) Attention::forward(rank_, p, c, s.make(rank_, middle), x, s);
  Mlp::backward(rank_, p, g, c, d, s[middle], s);
  Attention::backward(rank_, p, g, c, d, x, s, anything_below);
  model_.release(layer);
}

void Decoder::forward_backward(const Tokens& t, const LossOut& out) {
  const Scope step(rank_.memory);
  const int layers = int(model_.spec().layers.size());
  const Shape residual{t.count(), model_.spec().hidden};
  const Context c = context(t);
  const auto offloads = [&](int l) { return l < layers && bool(homes_[size_t(l)]); };
  const auto home = [&](int l, const Saved& s) { return Tensor{homes_[size_t(l)].data, DType::u8, {s.offloaded_bytes()}}; };

  std::vector<LayerState> states;
  states.reserve(size_t(layers));
  const Tensor d = rank_.memory.take(Use::activations, "d residual", rank_.compute(), residual);
  // Opens layer l: its place in the stack or in the ring, its kept tensors; returns where its input goes.
  const auto open = [&](int l) {
    const int64_t mark = rank_.memory.used();
    rank_.ledger.at_layer(l);
    if (l == layers) return rank_.memory.take(Use::activations, "last hidden", rank_.compute(), residual);
    LayerState& s = states.emplace_back(saved_of(l, t.count(), execution_.save[size_t(l)]), Tensor{}, mark);
    if (offloads(l)) s.saved.place_offloaded(offload_->acquire_to_fill(l, s.saved.offloaded_bytes()));
    const bool away = s.saved.how(input) == Save::offload;
    s.in = away ? s.saved.make(rank_, input) : rank_.memory.take(Use::activations, name_of(input), rank_.compute(), residual);
    s.saved.place_kept(rank_.memory);
    return s.in;
  };

  embed(open(0), t);
  Tensor last;
  int64_t last_mark = 0;
  for (int l = 0; l < layers; ++l) {
    last_mark = rank_.memory.used();
    last = open(l + 1);
    rank_.ledger.at_layer(l);
    LayerState& s = states[size_t(l)];
    layer_forward(l, l + 1 < layers ? l + 1 : l - 1, c, last, s.in, s.saved);
    s.saved.forget_temporaries();
    if (offloads(l)) offload_->release(l, home(l, s.saved));
  }
  rank_.ledger.at_layer(-1);
  head_loss(last, d, t, out);
  rank_.memory.give_back_to(last_mark);

  for (int l = layers - 1; l >= 0; --l) {
    LayerState& s = states[size_t(l)];
    rank_.ledger.at_layer(l);
    if (offloads(l)) {
      s.saved.offloaded_is_back(offload_->acquire(l, home(l, s.saved)));
      if (s.saved.how(input) == Save::offload) s.in = s.saved[input];
    }
    for (int below = l - 1; below >= 0; --below)
      if (offloads(below)) {  // the next one to come back, however far: it travels while layers that keep theirs compute
        offload_->prefetch(below, home(below, states[size_t(below)].saved));
        break;
      }
    layer_backward(l, l - 1, c, d, s.in, s.saved);
    if (offloads(l)) offload_->release(l);
    rank_.memory.give_back_to(s.mark);
  }
  rank_.ledger.at_layer(-1);
  if (offload_) offload_->forget();
  if (!model_.d_embedding()) return;
  if (const float scale = embedding_scale(); scale != 1) ops::scale(rank_.stream, d, scale);
  ops::embedding_backward(rank_.stream, model_.d_embedding(), d, t.ids);
}

void Decoder::forward(const Tokens& t, const LossOut& out) {
  const Scope step(rank_.memory);
  const int layers = int(model_.spec().layers.size());
  const Context c = context(t);
  const Shape residual{t.count(), model_.spec().hidden};
  Tensor x = rank_.memory.take(Use::activations, "residual", rank_.compute(), residual), y = rank_.memory.take(Use::activations, "residual", rank_.compute(), residual);
  embed(x, t);
  for (int l = 0; l < layers; ++l) {
    rank_.ledger.at_layer(l);
    Saved s = saved_of(l, t.count(), all(Save::recompute));
    layer_forward(l, l + 1 < layers ? l + 1 : -1, c, y, x, s);
    std::swap(x, y);
  }
  rank_.ledger.at_layer(-1);
  head_loss(x, {}, t, out);
}

void Decoder::infer(const Tokens& t, KvCache& cache, Tensor logits) {
  check(cache.length() + t.count() <= cache.capacity(), "tokens fit the cache");
  const Scope step(rank_.memory);
  const int layers = int(model_.spec().layers.size());
  const int64_t n = logits.shape[0];
  Context c = context(t);
  c.first = cache.length();
  const Shape residual{t.count(), model_.spec().hidden};
  Tensor x = rank_.memory.take(Use::activations, "residual", rank_.compute(), residual), y = rank_.memory.take(Use::activations, "residual", rank_.compute(), residual);
  embed(x, t);
  for (int l = 0; l < layers; ++l) {
    rank_.ledger.at_layer(l);
    c.cache_k = cache.keys(l);
    c.cache_v = cache.values(l);
    Saved s = saved_of(l, t.count(), all(Save::recompute));
    layer_forward(l, l + 1 < layers ? l + 1 : -1, c, y, x, s);
    std::swap(x, y);
  }
  rank_.ledger.at_layer(-1);
  cache.advance(t.count());
  const Tensor rstd = rank_.memory.take(Use::activations, "rstd", DType::f32, {n});
  const Tensor tail = x.rows(t.count() - n, n);
  ops::rms_norm(rank_.stream, y.rows(0, n), rstd, tail, model_.final_norm().dense(), float(model_.spec().norm_eps), model_.spec().norm_offset);
  ops::linear(rank_.stream, logits, y.rows(0, n), model_.head());
  if (model_.spec().logit_cap > 0) ops::soft_cap(rank_.stream, logits, model_.spec().logit_cap);
}

void Decoder::head_loss(Tensor x, Tensor d, const Tokens& t, const LossOut& out) {
  if (d) ops::zero(rank_.stream, d);
  for (int64_t at = 0; at < t.count(); at += execution_.head_chunk) {
    const int64_t n = std::min(execution_.head_chunk, t.count() - at);
    head_loss_chunk(x.rows(at, n), d ? d.rows(at, n) : Tensor{}, t.targets.rows(at, n), out);
  }
}

void Decoder::head_loss_chunk(Tensor x, Tensor d, Tensor targets, const LossOut& out) {
  const Scope scope(rank_.memory);
  const int64_t n = x.shape[0];
  const auto& norm = model_.final_norm().dense();
  const Tensor normed = rank_.memory.take(Use::activations, "normed (head)", x.dtype, x.shape);
  const Tensor rstd = rank_.memory.take(Use::activations, "rstd (head)", DType::f32, {n});
  const Tensor logits = rank_.memory.take(Use::activations, "logits", DType::f32, {n, model_.spec().vocab});
  const auto& spec = model_.spec();
  ops::rms_norm(rank_.stream, normed, rstd, x, norm, float(spec.norm_eps), spec.norm_offset);
  ops::linear(rank_.stream, logits, normed, model_.head());
  if (spec.logit_cap > 0) ops::soft_cap(rank_.stream, logits, spec.logit_cap);
  ops::cross_entropy(rank_.stream, out.loss, out.correct, logits, targets, out.scale, bool(d), spec.logit_cap);
  if (!d) return;
  if (model_.d_head()) ops::linear_backward_weight(rank_.stream, model_.d_head(), logits, normed);
  const Tensor dnormed = rank_.memory.take(Use::activations, "d normed (head)", x.dtype, x.shape);
  Tensor dlogits = logits;
  if (x.dtype != DType::f32) {
    dlogits = rank_.memory.take(Use::activations, "d logits", x.dtype, logits.shape);
    ops::convert(rank_.stream, dlogits, logits);
  }
  ops::linear_backward_input(rank_.stream, dnormed, dlogits, model_.head());
  ops::rms_norm_backward(rank_.stream, d, model_.d_final_norm(), dnormed, x, norm, rstd, spec.norm_offset);
}

}  // namespace thimble::nn
