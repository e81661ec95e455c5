// Shapes of the saved tensors, and where each lies while a step runs.
#include "nn/saved.h"

namespace thimble::nn {

const char* name_of(SavedName n) {
  constexpr const char* names[saved_count] = {
      "input", "normed (attention)", "rstd (attention)", "q before its norm", "k before its norm", "rstd (q)", "rstd (k)", "q", "k", "v", "xa_qkv",
      "attended", "lse", "xa_o", "attention out", "rstd (attention out)", "middle", "normed (mlp)", "rstd (mlp)", "gate", "up", "xa_gate_up", "act", "xa_down",
      "mlp out", "rstd (mlp out)"};
  return names[n];
}

SavedShapes::SavedShapes(int64_t t, int64_t c, const LayerSpec& l, const LayerLora& adapters, DType type) : tokens(t), hidden(c), layer(l), lora(adapters), compute(type) {
  for (int i = 0; i < saved_count; ++i) shapes_[size_t(i)] = shape_of(SavedName(i));
}

Shape SavedShapes::shape_of(SavedName n) const {
  const int64_t heads = layer.heads * layer.head_dim, kv = layer.kv_heads * layer.head_dim;
  const auto adapters = [&](LayerGroup g) { return lora.rows(g) ? Shape{lora.rows(g), tokens} : Shape{0}; };
  switch (n) {
    case input: case normed_attention: case middle: case normed_mlp: return {tokens, hidden};
    case rstd_attention: case rstd_mlp: return {tokens};
    case q: case attended: return {tokens, heads};
    case k: case v: return {tokens, kv};
    case q_plain: return {layer.head_norms ? tokens : 0, heads};
    case k_plain: return {layer.head_norms ? tokens : 0, kv};
    case rstd_q: return {layer.head_norms ? tokens * layer.heads : 0};
    case rstd_k: return {layer.head_norms ? tokens * layer.kv_heads : 0};
    case attention_out: case mlp_out: return {layer.norms_after ? tokens : 0, hidden};
    case rstd_attention_out: case rstd_mlp_out: return {layer.norms_after ? tokens : 0};
    case lse: return {layer.heads, tokens};
    case gate: case up: case act: return {tokens, layer.ffn};
    case xa_qkv: return adapters(qkv_group);
    case xa_o: return adapters(o_group);
    case xa_gate_up: return adapters(gate_up_group);
    case xa_down: return adapters(down_group);
  }
  return {0};
}

void Saved::place_kept(Arena& stack) {
  for (int i = 0; i < saved_count; ++i) {
    const auto n = SavedName(i);
    if (n == input || how_[n] != Save::keep || !shapes_->has(n)) continue;
    entries_[n].tensor = stack.take(Use::activations, name_of(n), shapes_->dtype(n), shapes_->shape(n));
  }
}

int64_t Saved::offloaded_bytes() const {
  int64_t sum = 0;
  for (int i = 0; i < saved_count; ++i)
    if (offloaded(SavedName(i))) sum += shapes_->bytes(SavedName(i));
  return sum;
}

void Saved::place_offloaded(Tensor slot) {
  auto* at = static_cast<std::byte*>(slot.data);
  for (int i = 0; i < saved_count; ++i) {
    const auto n = SavedName(i);
    if (!offloaded(n)) continue;
    entries_[n].tensor = Tensor{at, shapes_->dtype(n), shapes_->shape(n)};
    at += shapes_->bytes(n);
  }
  check(at <= static_cast<std::byte*>(slot.data) + slot.bytes(), "a layer's offloaded tensors fit its slot");
}

void Saved::offloaded_is_back(Tensor slot) {
  place_offloaded(slot);
  for (int i = 0; i < saved_count; ++i)
    if (offloaded(SavedName(i))) entries_[size_t(i)].ready = true;
}

Saved Saved::part(int64_t first, int64_t tokens) const {
  Saved p(*this);
  p.shapes_ = std::make_shared<const SavedShapes>(tokens, shapes_->hidden, shapes_->layer, shapes_->lora, shapes_->compute);
  for (int i = 0; i < saved_count; ++i) {
    Held& e = p.entries_[size_t(i)];
    if (!e.tensor) continue;
    const int64_t a_token = e.tensor.count() / shapes_->tokens;
    e.tensor = {static_cast<std::byte*>(e.tensor.data) + first * a_token * size_of(e.tensor.dtype), e.tensor.dtype, p.shapes_->shape(SavedName(i))};
  }
  return p;
}

void Saved::made_as(const Saved& part) {
  for (int i = 0; i < saved_count; ++i)
    if (entries_[size_t(i)].tensor) entries_[size_t(i)].ready = part.entries_[size_t(i)].ready;
}

void Saved::forget_temporaries() {
  for (int i = 0; i < saved_count; ++i)
    if (how_[size_t(i)] != Save::keep) entries_[size_t(i)] = {};
}

void Saved::place(comm::Rank& rank, SavedName n) {
  Tensor& t = entries_[n].tensor;
  if (!t && shapes_->has(n)) t = rank.memory.take(Use::activations, name_of(n), shapes_->dtype(n), shapes_->shape(n));
}

Tensor Saved::make(comm::Rank& rank, SavedName n) {
  place(rank, n);
  entries_[n].ready = true;
  return entries_[n].tensor;
}

}  // namespace thimble::nn
