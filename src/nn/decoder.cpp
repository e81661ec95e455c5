// A step is a stack: [gradient of the residual | x0 saved0 x1 saved1 ... xL | temporaries], each of all micro-batches of the window. Backward pops
// what forward pushed. A layer's weights are acquired once for the whole window, each way.
#include "nn/decoder.h"

#include <algorithm>
#include <cmath>

#include "nn/chain.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"

namespace thimble::nn {
namespace {

// Which matrices have been unpacked so far, a bit each, above those of Saved::ready.
int64_t filled(const LayerParams& p) {
  int64_t bits = 0;
  for (int m = 0; m < layer_param_count; ++m)
    if (p.weight[m].unpacked) bits |= int64_t{p.weight[m].unpacked->filled} << m;
  return bits << saved_count;
}
void set_filled(const LayerParams& p, int64_t bits) {
  for (int m = 0; m < layer_param_count; ++m)
    if (p.weight[m].unpacked) p.weight[m].unpacked->filled = (bits >> (m + saved_count)) & 1;
}

constexpr uint32_t embedding_place = ~uint32_t{0};  // of ops::Drawn: beyond those of all layers

}  // namespace

Decoder::Decoder(comm::Rank& rank, Model& model, const Execution& execution, int64_t max_tokens)
    : rank_(rank), model_(model), execution_(execution), rope_(rank, model.spec()), lowest_(model.method().weights.embedding ? 0 : model.lowest_trained_layer()) {
  const auto& spec = model.spec();
  if (execution_.save.empty()) execution_.save.assign(spec.layers.size(), all(Save::keep));
  check(execution_.save.size() == spec.layers.size(), "a plan says of each layer what is saved");
  check(execution_.window >= 1 && (execution_.window == 1 || !spec.tied_head || !model.method().weights.embedding),
        "a layer runs several micro-batches only where no tied head is trained, whose gradient would add up in another order");
  check(execution_.window == 1 || !spec.rope_follows_length(), "a layer runs several micro-batches only where they share RoPE's tables");
  shapes_.resize(spec.layers.size());
  std::vector<int64_t> of_inputs, of_insides;
  for (int l = 0; l < int(spec.layers.size()); ++l) {
    int first = model.alike(l);
    while (model.alike(first) != model.alike(l) || execution_.save[size_t(first)] != execution_.save[size_t(l)]) ++first;
    alike_.push_back(first);
    const Saved s = saved_of(l, max_tokens, execution_.save[size_t(l)]);
    of_inputs.push_back(l >= lowest_ && s.how(input) == Save::offload ? s.shapes().bytes(input) : 0);
    of_insides.push_back(l >= lowest_ ? s.offloaded_bytes() : 0);
  }
  const int window = int(execution_.window);
  inputs_.emplace(rank, "offloaded inputs", of_inputs, window, window + 1);  // the layer's, and those that its outputs fill
  insides_.emplace(rank, "offloaded activations", of_insides, window, 1);
}

void Decoder::load() { rope_.load(); }

Context Decoder::context(const Tokens& t) {
  rope_.follow(t.length);
  return {.positions = t.positions, .start = t.start, .rope = &rope_, .model = &model_.spec(), .longest = execution_.longest_document, .document = t.document,
          .chunk = execution_.token_chunk};
}

// As transformers does, rounded to the type that is computed with.
float Decoder::embedding_scale() const {
  if (!model_.spec().scaled_embedding) return 1;
  float scale = std::sqrt(float(model_.spec().hidden));
  visit_float(rank_.compute(), [&]<class X>(X) { scale = float(X(scale)); });
  return scale;
}

void Decoder::embed(Tensor y, const Tokens& t) {
  model_.embed(rank_, y, t.ids);
  if (const float alpha = model_.method().embedding_noise; alpha > 0 && t.key)
    ops::add_noise(rank_.stream, y, alpha / std::sqrt(float(t.length * y.shape[1])), {t.key, embedding_place});
  if (const float scale = embedding_scale(); scale != 1) ops::scale(rank_.stream, y, scale);
}

Saved Decoder::saved_of(int layer, int64_t tokens, const LayerSave& how, Tensor key) {
  const LoraSpec& lora = model_.method().lora;
  auto& shapes = shapes_[size_t(model_.alike(layer))];
  if (!shapes || shapes->tokens != tokens)
    shapes = std::make_shared<const SavedShapes>(tokens, model_.spec().hidden, model_.spec().layers[size_t(layer)], lora.layers[layer], rank_.compute());
  return Saved(shapes, how, {key, lora.dropout, layer});
}

void Decoder::once_a_kind(const char* pass, int layer, const LayerParams& p, const Context& c, Saved& s, const std::function<void()>& work) {
  uint64_t weights = 0;  // how each lies, and whether it has an adapter
  for (int m = 0; m < layer_param_count; ++m)
    weights = weights * 1099511628211u + uint64_t(p.weight[m].format) * 4 + (p.weight[m].unpacked ? 2 : 0) + (p.lora.b[size_t(m)] ? 1 : 0);
  const comm::Kind kind{pass, {alike_[size_t(layer)], s.shapes().tokens, c.document, int64_t(weights), s.ready() | filled(p)}};
  const int64_t left = rank_.once_a_kind(kind, [&] {
    work();
    return s.ready() | filled(p);
  });
  s.set_ready(left);
  set_filled(p, left);
}

void Decoder::layer_forward(const LayerParams& p, const Context& c, Tensor y, Tensor x, Saved& s) {
  const Scope scope(rank_.memory);
  const Tensor mid = s.make(rank_, middle);
  if (chains(p, s.shapes())) return chained(rank_, p, c, y, x, mid, s);
  {
    const Scope of_attention(rank_.memory);
    Attention::forward(rank_, p, c, mid, x, s);
  }
  in_chunks(rank_, s, c.chunk, [&](Saved& part, int64_t first, int64_t n) { Mlp::forward(rank_, p, c, y.rows(first, n), mid.rows(first, n), part); });
}

void Decoder::layer_backward(const LayerParams& p, const LayerGrads& g, const Context& c, Tensor d, Tensor x, Saved& s, bool into_input) {
  const Scope scope(rank_.memory);
  if (!s.ready(middle)) {  // what attention's backward reads too lies below what the MLP's alone does
    Attention::remake(rank_, p, c, x, s);
    s.place(rank_, xa_o);
  }
  {
    const Scope of_mlp(rank_.memory);
    Saved of = s;
    if (!of.ready(middle)) {
      Attention::forward(rank_, p, c, of.make(rank_, middle), x, of);
      s.made_as(of);
    }
    in_chunks(rank_, of, c.chunk, [&](Saved& part, int64_t first, int64_t n) { Mlp::backward(rank_, p, g, c, d.rows(first, n), of[middle].rows(first, n), part); });
  }
  Attention::backward(rank_, p, g, c, d, x, s, into_input);
}

void Decoder::forward_backward(std::span<const Tokens> window, const LossOut& out, const Turns& turns) {
  check(std::ssize(window) <= execution_.window, "a window has at most the planned micro-batches");
  const Scope step(rank_.memory);
  const int layers = int(model_.spec().layers.size());
  const auto residual = [&](const Tokens& t, const char* name) {
    return rank_.memory.take(Use::activations, name, rank_.compute(), {t.count(), model_.spec().hidden});
  };
  std::vector<MicroBatch> micros;
  for (const Tokens& t : window) micros.push_back({.index = int(micros.size()), .tokens = t, .context = context(t), .d = residual(t, "d residual")});
  for (MicroBatch& m : micros) m.layers.reserve(size_t(layers - lowest_));

  std::vector<int64_t> marks;  // of the stack, before each layer's tensors
  // Lays the tensors of layer l on the stack, for every micro-batch; after the last layer, what the head reads.
  const auto open = [&](int l) {
    marks.push_back(rank_.memory.used());
    rank_.ledger.at_layer(l);
    for (MicroBatch& m : micros) {
      if (l == layers) {
        m.last = residual(m.tokens, "last hidden");
        continue;
      }
      LayerState& s = m.layers.emplace_back(saved_of(l, m.tokens.count(), execution_.save[size_t(l)], m.tokens.key));
      if (!inputs_->has(l)) s.in = residual(m.tokens, name_of(input));
      s.saved.place_kept(rank_.memory);
    }
  };
  // Where the input of layer l is written; that is the time when one that is offloaded gets its slot.
  const auto input_of = [&](int l, MicroBatch& m) {
    if (l == layers) return m.last;
    LayerState& s = m.layers[size_t(l - lowest_)];
    if (inputs_->has(l)) s.in = Tensor{inputs_->open(l, m.index, s.saved.shapes().bytes(input)).data, rank_.compute(), s.saved.shapes().shape(input)};
    return s.in;
  };

  open(lowest_);
  run_frozen(micros, [&](MicroBatch& m) { return input_of(lowest_, m); });
  for (int l = lowest_; l < layers; ++l) {
    open(l + 1);
    rank_.ledger.at_layer(l);
    const Scope scope(rank_.memory);
    const LayerParams p = model_.acquire(rank_, l, l + 1 < layers ? l + 1 : l > lowest_ ? l - 1 : -1, execution_.unpack_layer);
    const bool changed = turns.before_forward && turns.before_forward(l);
    for (MicroBatch& m : micros) {
      LayerState& s = m.layers[size_t(l - lowest_)];
      const Tensor y = input_of(l + 1, m);
      if (insides_->has(l)) s.saved.place_offloaded(insides_->open(l, m.index, s.saved.offloaded_bytes()));
      once_a_kind("forward", l, p, m.context, s.saved, [&] { layer_forward(p, m.context, y, s.in, s.saved); });
      s.saved.forget_temporaries();
      if (inputs_->has(l)) inputs_->send(l, m.index);
      if (insides_->has(l)) insides_->send(l, m.index);
    }
    model_.release(l, changed);
  }
  rank_.ledger.at_layer(-1);
  for (const MicroBatch& m : micros) head_loss(m.last, m.d, m.tokens, out);
  rank_.memory.give_back_to(marks.back());

  for (int l = layers - 1; l >= lowest_; --l) {
    rank_.ledger.at_layer(l);
    {
      const Scope scope(rank_.memory);
      const LayerParams p = model_.acquire(rank_, l, l > lowest_ ? l - 1 : -1, execution_.unpack_layer);
      const LayerGrads g = model_.open_gradients(l, turns.first, l > lowest_ ? l - 1 : -1);
      const bool into_input = l > lowest_ || model_.d_embedding() || g.weight[norm_attention];
      for (MicroBatch& m : micros) {  // in forward's order, so that gradients add up as they do one micro-batch after the other
        LayerState& s = m.layers[size_t(l - lowest_)];
        if (inputs_->has(l)) s.in.data = inputs_->bring(l, m.index).data;
        if (insides_->has(l)) s.saved.offloaded_is_back(insides_->bring(l, m.index));
        once_a_kind(into_input ? "backward" : "backward of the lowest", l, p, m.context, s.saved, [&] { layer_backward(p, g, m.context, m.d, s.in, s.saved, into_input); });
        if (inputs_->has(l)) inputs_->close(l, m.index);
        if (insides_->has(l)) insides_->close(l, m.index);
      }
      const bool changed = turns.after_backward && turns.after_backward(l);
      model_.close_gradients(l, !changed);
      model_.release(l, changed);
    }
    rank_.memory.give_back_to(marks[size_t(l - lowest_)]);
  }
  rank_.ledger.at_layer(-1);
  inputs_->forget();
  insides_->forget();
  if (!model_.d_embedding()) return;
  for (const MicroBatch& m : micros) {
    if (const float scale = embedding_scale(); scale != 1) ops::scale(rank_.stream, m.d, scale);
    ops::embedding_backward(rank_.stream, model_.d_embedding(), m.d, m.tokens.ids);
  }
}

void Decoder::run_frozen(std::span<MicroBatch> micros, const std::function<Tensor(MicroBatch&)>& out) {
  const Scope scope(rank_.memory);
  std::vector<Residual> residuals;
  for (MicroBatch& m : micros) {
    const auto residual = [&] { return rank_.memory.take(Use::activations, "residual of frozen layers", rank_.compute(), {m.tokens.count(), model_.spec().hidden}); };
    residuals.push_back({lowest_ > 0 ? residual() : out(m), lowest_ > 1 ? residual() : Tensor{}});
    embed(residuals.back().value, m.tokens);
  }
  for (int l = 0; l < lowest_; ++l) {
    rank_.ledger.at_layer(l);
    const Scope of_layer(rank_.memory);
    const LayerParams p = model_.acquire(rank_, l, l + 1 < int(model_.spec().layers.size()) ? l + 1 : -1, execution_.unpack_layer);
    for (MicroBatch& m : micros) {
      auto& [x, y] = residuals[size_t(m.index)];
      if (l + 1 == lowest_) y = out(m);
      Saved s = saved_of(l, m.tokens.count(), all(Save::recompute));
      layer_forward(p, m.context, y, x, s);
      std::swap(x, y);
    }
    model_.release(l);
  }
}

Tensor Decoder::hidden(const Tokens& t, std::span<KvCache* const> caches) {
  const int layers = int(model_.spec().layers.size());
  Context c = context(t);
  std::vector<LayerCache> of_layer(caches.size());
  c.caches = of_layer;
  const Shape residual{t.count(), model_.spec().hidden};
  Tensor x = rank_.memory.take(Use::activations, "residual", rank_.compute(), residual), y = rank_.memory.take(Use::activations, "residual", rank_.compute(), residual);
  embed(x, t);
  for (int l = 0; l < layers; ++l) {
    rank_.ledger.at_layer(l);
    const Scope scope(rank_.memory);
    LayerParams p = model_.acquire(rank_, l, l + 1 < layers ? l + 1 : -1, execution_.unpack_layer, !caches.empty() && t.count() <= quant::most_few_tokens);
    p.generating = !caches.empty();
    for (size_t i = 0; i < caches.size(); ++i) of_layer[i] = caches[i]->make_room(rank_, l, caches.size() == 1 ? t.count() : 1);
    Saved s = saved_of(l, t.count(), all(Save::recompute));
    const auto forward = [&] { layer_forward(p, c, y, x, s); };
    if (p.generating) forward();  // whose length grows from pass to pass
    else once_a_kind("forward alone", l, p, c, s, forward);
    model_.release(l);
    std::swap(x, y);
  }
  rank_.ledger.at_layer(-1);
  return x;
}

void Decoder::forward(const Tokens& t, const LossOut& out) {
  const Scope step(rank_.memory);
  head_loss(hidden(t, {}), {}, t, out);
}

void Decoder::infer(const Tokens& t, std::span<KvCache* const> caches, Tensor logits) {
  const int64_t each = caches.size() == 1 ? t.count() : 1;
  check(int64_t(caches.size()) * each == t.count(), "a batch of tokens is one sequence's, or each token is another's");
  for (const KvCache* cache : caches) check(cache->length() + each <= cache->capacity(), "tokens fit the cache");
  const Scope step(rank_.memory);
  const int64_t n = logits.shape[0];
  const Tensor last = hidden(t, caches);
  for (KvCache* cache : caches) cache->advance(each);
  const auto& spec = model_.spec();
  ops::linear_few(rank_.stream, last.rows(t.count() - n, n), std::array{quant::FewProduct{logits, &model_.head()}},
                  {model_.final_norm().dense(), float(spec.norm_eps), spec.norm_offset});
  if (model_.spec().logit_cap > 0) ops::soft_cap(rank_.stream, logits, model_.spec().logit_cap);
}

void Decoder::head_loss(Tensor x, Tensor d, const Tokens& t, const LossOut& out) {
  if (d) ops::zero(rank_.stream, d);
  for (int64_t at = 0; at < t.count(); at += execution_.head_chunk) {
    const int64_t n = std::min(execution_.head_chunk, t.count() - at);
    rank_.once_a_kind({"head", {n, bool(d)}}, [&] {
      head_loss_chunk(x.rows(at, n), d ? d.rows(at, n) : Tensor{}, t.targets.rows(at, n), out);
      return 0;
    });
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
  if (!d) return ops::cross_entropy(rank_.stream, out.loss, out.correct, logits, targets, out.scale, {}, spec.logit_cap);
  const Tensor dlogits = x.dtype == DType::f32 ? logits : rank_.memory.take(Use::activations, "d logits", x.dtype, logits.shape);
  ops::cross_entropy(rank_.stream, out.loss, out.correct, logits, targets, out.scale, dlogits, spec.logit_cap);
  const Tensor dnormed = rank_.memory.take(Use::activations, "d normed (head)", x.dtype, x.shape);
  if (model_.d_head()) ops::linear_backward_weight(rank_.stream, model_.d_head(), dlogits, normed);
  ops::linear_backward_input(rank_.stream, dnormed, dlogits, model_.head());
  ops::rms_norm_backward(rank_.stream, d, model_.d_final_norm(), dnormed, x, norm, rstd, spec.norm_offset);
}

}  // namespace thimble::nn
