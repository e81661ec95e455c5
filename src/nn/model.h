// Weights, adapters and gradients of one decoder, handed out layer by layer: what a step computes with, wherever it lies.
#pragma once
#include <memory>
#include <optional>

#include "nn/params.h"
#include "store/flat_store.h"
#include "store/weight_store.h"

namespace thimble::nn {

// How a model is tuned: nothing (inference), its adapters, some or all of its weights, or adapters beside some weights.
struct Method {
  TrainedWeights weights;                            // f32 and resident
  LoraSpec lora;
  quant::FormatId format = quant::FormatId::dense;   // of the layers' frozen matrices
  float embedding_noise = 0;                         // alpha of NEFTune; 0: none
  bool trains_weights() const { return weights.any(); }
};

class Model {
 public:
  Model(comm::Rank&, const ModelSpec&, const Method&, const store::Residency&);

  void load(const store::WeightSource* source);
  // DoRA's magnitudes of new adapters: the norms of w + s B A, row by row (PEFT's DoraLinearLayer.update_layer). Once A and B are there.
  void start_magnitudes();
  // Takes the gradients' memory. Only a model that is trained needs it.
  void take_gradients(comm::Rank&);

  // The layer ready to compute with; `next`: the one wanted after it, -1 if none. Adapters come in the type of the activations, copied into
  // the caller's scope where that is not f32; with `unpack` so do the matrices, each once.
  LayerParams acquire(comm::Rank&, int layer, int next, bool unpack);
  void release(int layer) { weights_.release(layer); }
  LayerGrads gradients(int layer) const;
  int lowest_trained_layer() const;  // of those that hold something trained; as many as there are layers: none does

  // y (T, C) = the rows of ids (T), overwritten, from wherever the table lies.
  void embed(comm::Rank&, Tensor y, Tensor ids) const;
  const quant::Weight& final_norm() const { return weights_.outside(final_norm_index); }
  const quant::Weight& head() const { return weights_.outside(spec_.tied_head ? embedding_index : head_index); }
  // Gradients outside the layers; null where frozen.
  Tensor d_embedding() const { return gradient(outside_[embedding_index]); }
  Tensor d_final_norm() const { return gradient(outside_[final_norm_index]); }
  Tensor d_head() const { return gradient(outside_[spec_.tied_head ? embedding_index : head_index]); }

  // Everything that is trained: its spec (layer, role), value and gradient, in one order: weights as in the table, then adapters.
  struct Trained { const store::ParamSpec* spec; Tensor value, gradient; };
  const std::vector<Trained>& trained() const { return trained_; }
  const Tensor& all_gradients() const { return gradients_->all(); }
  const store::FlatStore* adapters() const { return adapters_ ? &*adapters_ : nullptr; }
  const store::WeightStore& weights() const { return weights_; }
  const ModelSpec& spec() const { return spec_; }
  const Method& method() const { return method_; }

 private:
  static constexpr int frozen = -1;
  void measure_norms(comm::Rank&, int layer, LayerParams&) const;
  LayerAdapters of_layer(const store::FlatStore&, size_t first, int layer, Tensor used) const;
  Tensor gradient(int i) const { return i == frozen || !gradients_ ? Tensor{} : (*gradients_)[size_t(i)]; }
  bool has_adapters(int layer) const { return adapters_ && first_adapter_[size_t(layer)] < first_adapter_[size_t(layer) + 1]; }

  comm::Rank& rank_;
  ModelSpec spec_;
  Method method_;
  store::WeightStore weights_;
  std::array<quant::Unpacked, layer_param_count> unpacked_;        // of the layer acquired last
  std::optional<store::FlatStore> adapters_, gradients_;
  std::optional<store::FlatStore> squares_;                        // of the rows of each matrix with a DoRA adapter, in their order
  std::vector<Trained> trained_;
  std::array<int, 3> outside_{frozen, frozen, frozen};             // places in trained_
  std::vector<std::array<int, layer_param_count>> in_layer_;       // places in trained_, by layer
  size_t weights_trained_ = 0;                                     // how many of trained_ are weights: adapters follow
  std::vector<size_t> first_adapter_;                              // by layer, in adapters_; one more at the end
  std::vector<std::vector<LayerParam>> present_;                   // by layer
};

}  // namespace thimble::nn
