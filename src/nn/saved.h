// What forward leaves for backward, tensor by tensor, and how: kept on the stack, recomputed, or sent to pinned memory and fetched back.
// A tensor that is not there when backward asks for it is made again by the function that made it first.
#pragma once
#include <algorithm>
#include <array>
#include <memory>

#include "comm/rank.h"
#include "nn/params.h"
#include "ops/noise.h"

namespace thimble::nn {

enum class Save : uint8_t { keep, recompute, offload };

// Every tensor of a layer that backward may want, in the order in which forward makes them. T tokens.
enum SavedName : uint8_t {
  input,                                   // (T, C) what the layer reads
  normed_attention, rstd_attention,        // (T, C), (T)
  q_plain, k_plain, rstd_q, rstd_k,        // (T, H D), (T, K D), (T H), (T K): what norms of heads read; absent without
  q, k, v,                                 // (T, H D), (T, K D), (T, K D); q and k turned by RoPE
  xa_qkv,                                  // (n R, T) A . x^T of the adapters
  attended, lse,                           // (T, H D), (H, T)
  xa_o,
  attention_out, rstd_attention_out,       // (T, C), (T): what a norm after attention reads; absent without
  middle,                                  // (T, C) after attention and its residual
  normed_mlp, rstd_mlp,
  gate, up,                                // (T, F)
  xa_gate_up,
  act,                                     // (T, F) act(gate) * up
  xa_down,
  mlp_out, rstd_mlp_out,                   // (T, C), (T)
};
constexpr int saved_count = 26;
const char* name_of(SavedName);
constexpr SavedName xa_of(LayerGroup g) {
  constexpr SavedName names[layer_group_count] = {xa_qkv, xa_o, xa_gate_up, xa_down};
  return names[g];
}

using LayerSave = std::array<Save, saved_count>;
constexpr LayerSave all(Save how) {
  LayerSave s{};
  for (auto& x : s) x = how;
  return s;
}

// Sizes that a layer's tensors depend on, and theirs.
class SavedShapes {
 public:
  SavedShapes(int64_t tokens, int64_t hidden, const LayerSpec&, const LayerLora&, DType compute);
  const int64_t tokens, hidden;
  const LayerSpec layer;
  const LayerLora lora;
  const DType compute;
  const Shape& shape(SavedName n) const { return shapes_[n]; }  // count 0: the layer does not have it
  bool has(SavedName n) const { return shapes_[n].count() > 0; }
  DType dtype(SavedName n) const {
    switch (n) {
      case rstd_attention: case rstd_q: case rstd_k: case lse: case rstd_attention_out: case rstd_mlp: case rstd_mlp_out: return DType::f32;
      default: return compute;
    }
  }
  int64_t bytes(SavedName n) const { return aligned(shape(n).count() * size_of(dtype(n))); }

 private:
  Shape shape_of(SavedName) const;
  std::array<Shape, saved_count> shapes_;
};

// What a layer draws of a micro-batch: the masks of its adapters' dropout.
struct LayerDrawn {
  Tensor key;       // ops/noise.h; null: nothing is drawn
  float share = 0;
  int layer = 0;
  explicit operator bool() const { return key && share > 0; }
  ops::Drawn of(int param) const { return {key, uint32_t(layer * 64 + param)}; }
};

class Saved {
 public:
  Saved(std::shared_ptr<const SavedShapes> shapes, const LayerSave& how, const LayerDrawn& drawn = {}) : shapes_(std::move(shapes)), how_(how), drawn_(drawn) {}

  // Gives places to what is kept (from the stack) and to what is offloaded (from `slot`, in order); before the layer runs. Not to the input, which
  // the layer below writes: the decoder does.
  void place_kept(Arena&);
  void place_offloaded(Tensor slot);
  int64_t offloaded_bytes() const;
  // The same tensors of tokens [first, first + tokens) alone, where those have a place. Each lies in its whole as a piece of its own, so that a
  // pass that writes in parts is read in the same parts.
  Saved part(int64_t first, int64_t tokens) const;
  void made_as(const Saved& part);  // what the last of the parts has made is there
  // After forward: temporaries are forgotten (their scope has ended); what is offloaded waits for place_offloaded in backward.
  void forget_temporaries();
  void offloaded_is_back(Tensor slot);

  bool ready(SavedName n) const { return entries_[n].ready; }
  Tensor operator[](SavedName n) const { check(entries_[n].ready, "a saved tensor is read once it was made"); return entries_[n].tensor; }
  // Gives it a place in the innermost scope, unless it has one or the layer does not have it.
  void place(comm::Rank&, SavedName);
  // Where to write it: its kept place, or a temporary of the innermost scope. From now on it counts as made.
  Tensor make(comm::Rank&, SavedName);
  void forget(SavedName n) { entries_[n] = {}; }
  // It lies elsewhere (a cache, the previous layer's output).
  void set(SavedName n, Tensor t) { entries_[n] = {t, true}; }

  // Which tensors are there, a bit each.
  int64_t ready() const {
    int64_t bits = 0;
    for (size_t i = 0; i < saved_count; ++i) bits |= int64_t{entries_[i].ready} << i;
    return bits;
  }
  void set_ready(int64_t bits) {
    for (size_t i = 0; i < saved_count; ++i) entries_[i].ready = (bits >> i) & 1;
  }

  const SavedShapes& shapes() const { return *shapes_; }
  const LayerDrawn& drawn() const { return drawn_; }  // never saved: drawn again
  Save how(SavedName n) const { return how_[n]; }

 private:
  struct Held { Tensor tensor; bool ready = false; };
  bool offloaded(SavedName n) const { return n != input && how_[n] == Save::offload && shapes_->has(n); }
  std::shared_ptr<const SavedShapes> shapes_;  // of all that are alike
  LayerSave how_;
  LayerDrawn drawn_;
  std::array<Held, saved_count> entries_{};
};

// f(tensors, first token, tokens): all at once, or `chunk` tokens at a time (0: no limit), what a part makes for itself gone after it.
template <class F>
void in_chunks(comm::Rank& r, Saved& all, int64_t chunk, F&& f) {
  const int64_t tokens = all.shapes().tokens;
  if (chunk == 0 || tokens <= chunk) return f(all, int64_t{0}, tokens);
  for (int64_t first = 0; first < tokens; first += chunk) {
    const Scope scope(r.memory);
    Saved part = all.part(first, std::min(chunk, tokens - first));
    f(part, first, part.shapes().tokens);
    if (first + chunk >= tokens) all.made_as(part);
  }
}

}  // namespace thimble::nn
