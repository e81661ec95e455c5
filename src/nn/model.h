// Weights, adapters and gradients of one decoder, handed out layer by layer: what a step computes with, wherever it lies.
#pragma once
#include <memory>
#include <optional>

#include "nn/params.h"
#include "store/gradient_store.h"

namespace thimble::nn {

// How a model is tuned: nothing (inference), its adapters, or all of it.
struct Method {
  bool trains_weights = false;                       // full tuning: f32 weights
  LoraSpec lora;                                     // rank 0: none
  quant::FormatId format = quant::FormatId::dense;   // of the layers' matrices
};

class Model {
 public:
  Model(comm::Rank&, const ModelSpec&, const Method&, const store::Residency&);

  void load(const store::WeightSource* source) { weights_.load(source); }
  // Takes the gradients' memory. Only a model that is trained needs it. `homes`: see GradientStore.
  void take_gradients(comm::Rank&, bool homes = true);

  // The layer ready to compute with; `next`: the one wanted after it, -1 if none. Adapters come in the type of the activations, copied into
  // the caller's scope where that is not f32; with `unpack` so do the matrices, each once.
  LayerParams acquire(comm::Rank&, int layer, int next, bool unpack);
  void release(int layer, bool changed = false) { weights_.release(layer, changed); }
  // The layer's gradients, to add to, until they are closed. `first`, `next` and `keep`: see GradientStore.
  LayerGrads open_gradients(int layer, bool first, int next);
  void close_gradients(int layer, bool keep);

  // y (T, C) = the rows of ids (T), overwritten, from wherever the table lies.
  void embed(comm::Rank&, Tensor y, Tensor ids) const;
  const quant::Weight& final_norm() const { return weights_.outside(final_norm_index); }
  const quant::Weight& head() const { return weights_.outside(spec_.tied_head ? embedding_index : head_index); }
  // Gradients outside the layers; null where frozen.
  Tensor d_embedding() const { return outside_gradient(embedding_index); }
  Tensor d_final_norm() const { return outside_gradient(final_norm_index); }
  Tensor d_head() const { return outside_gradient(spec_.tied_head ? embedding_index : head_index); }

  // Everything that is trained: its spec (layer, role), value and gradient, in one order. Those of a streamed layer are where they live, which is
  // pinned memory, and their gradients null.
  struct Trained { const store::ParamSpec* spec; Tensor value, gradient; bool on_host = false; };
  std::vector<Trained> trained() const;
  // The same of one layer (-1: outside all layers) that is resident, or acquired.
  std::vector<Trained> trained(int layer) const;
  const store::GradientStore& gradients() const { return *gradients_; }
  const store::FlatStore* adapters() const { return adapters_ ? &*adapters_ : nullptr; }
  const store::WeightStore& weights() const { return weights_; }
  store::WeightStore& weights() { return weights_; }
  bool streams_trained() const { return method_.trains_weights && residency_.resident < residency_.layers; }
  const ModelSpec& spec() const { return spec_; }
  const Method& method() const { return method_; }

 private:
  LayerAdapters of_layer(int layer, Tensor used) const;
  Tensor outside_gradient(size_t i) const { return method_.trains_weights && gradients_ ? gradients_->at(-1, i) : Tensor{}; }
  bool has_adapters(int layer) const { return adapters_ && first_adapter_[size_t(layer)] < first_adapter_[size_t(layer) + 1]; }

  ModelSpec spec_;
  Method method_;
  store::Residency residency_;
  store::WeightStore weights_;
  std::array<quant::Unpacked, layer_param_count> unpacked_;        // of the layer acquired last
  std::optional<store::FlatStore> adapters_;
  std::optional<store::GradientStore> gradients_;
  std::vector<int> first_adapter_;  // by layer, in adapters_; one more at the end
  std::vector<std::vector<LayerParam>> present_;  // by layer
};

}  // namespace thimble::nn
