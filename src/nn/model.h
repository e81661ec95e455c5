// Weights, adapters and gradients of one decoder, handed out layer by layer: what a step computes with, wherever it lies.
#pragma once
#include <memory>
#include <optional>

#include "nn/params.h"
#include "store/flat_store.h"
#include "store/weight_store.h"

namespace thimble::nn {

// How a model is tuned: nothing (inference), its adapters, or all of it.
struct Method {
  bool trains_weights = false;                       // full tuning: f32 weights, all resident
  LoraSpec lora;                                     // rank 0: none
  quant::FormatId format = quant::FormatId::dense;   // of the layers' matrices
};

class Model {
 public:
  Model(comm::Rank&, const ModelSpec&, const Method&, const store::Residency&);

  void load(const store::WeightSource* source) { weights_.load(source); }
  // Takes the gradients' memory. Only a model that is trained needs it.
  void take_gradients(comm::Rank&);

  // The layer ready to compute with; `next`: the one wanted after it, -1 if none. Adapters come in the type of the activations, copied into
  // the caller's scope where that is not f32; with `unpack` so do the matrices, each once.
  LayerParams acquire(comm::Rank&, int layer, int next, bool unpack);
  void release(int layer) { weights_.release(layer); }
  LayerGrads gradients(int layer) const;

  // y (T, C) = the rows of ids (T), overwritten, from wherever the table lies.
  void embed(comm::Rank&, Tensor y, Tensor ids) const;
  const quant::Weight& final_norm() const { return weights_.outside(final_norm_index); }
  const quant::Weight& head() const { return weights_.outside(spec_.tied_head ? embedding_index : head_index); }
  // Gradients outside the layers; null where frozen.
  Tensor d_embedding() const { return outside_gradient(embedding_index); }
  Tensor d_final_norm() const { return outside_gradient(final_norm_index); }
  Tensor d_head() const { return outside_gradient(spec_.tied_head ? embedding_index : head_index); }

  // Everything that is trained: its spec (layer, role), value and gradient, in one order.
  struct Trained { const store::ParamSpec* spec; Tensor value, gradient; };
  std::vector<Trained> trained() const;
  const Tensor& all_gradients() const { return gradients_->all(); }
  const store::FlatStore* adapters() const { return adapters_ ? &*adapters_ : nullptr; }
  const store::WeightStore& weights() const { return weights_; }
  const ModelSpec& spec() const { return spec_; }
  const Method& method() const { return method_; }

 private:
  LayerAdapters of_layer(const store::FlatStore&, int layer, Tensor used) const;
  Tensor outside_gradient(size_t i) const { return method_.trains_weights && gradients_ ? (*gradients_)[i] : Tensor{}; }

  ModelSpec spec_;
  Method method_;
  store::WeightStore weights_;
  std::array<quant::Unpacked, layer_param_count> unpacked_;        // of the layer acquired last
  std::optional<store::FlatStore> adapters_, gradients_;
  std::vector<int> first_adapter_;  // by layer, in adapters_; one more at the end
  std::vector<std::vector<LayerParam>> present_;  // by layer
  std::vector<size_t> first_weight_;  // by layer, in the table's order
};

}  // namespace thimble::nn
