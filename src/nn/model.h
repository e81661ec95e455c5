// Weights, adapters and gradients of one decoder, handed out layer by layer: what a step computes with, wherever it lies.
#pragma once
#include <memory>
#include <optional>

#include "nn/params.h"
#include "store/gradient_store.h"
#include "store/weight_store.h"

namespace thimble::nn {

// How a model is tuned: nothing (inference), its adapters, some or all of its weights, or adapters beside some weights.
struct Method {
  TrainedWeights weights;
  LoraSpec lora;
  quant::FormatId format = quant::FormatId::dense;   // of the layers' frozen matrices
  quant::FormatId head = quant::FormatId::dense;     // of the head, and so of an embedding that is one; where frozen
  float embedding_noise = 0;                         // alpha of NEFTune; 0: none
  bool trains_weights() const { return weights.any(); }
};

// May the embedding lie in pinned memory, its rows gathered from there: it is frozen, no head, and the device reads it.
bool can_host_embedding(const ModelSpec&, const Method&, const DeviceSpec&);

// What a model holds when it is tuned so: names and shapes, which every dry run of it shares.
struct Tables {
  store::ParamTable weights;
  std::vector<store::ParamSpec> adapters;
  store::FlatLayout adapter_layout;
  std::vector<size_t> first_adapter;             // by layer, in adapters; one more at the end
  std::vector<std::vector<LayerParam>> present;  // by layer
  std::vector<int> alike;                        // by layer: the first of its structure, of which the same is trained
};
std::shared_ptr<const Tables> tables_of(const ModelSpec&, const Method&);

class Model {
 public:
  // `tables`: of this model and method; null: made here.
  Model(comm::Rank&, const ModelSpec&, const Method&, const store::Residency&, std::shared_ptr<const Tables> tables = nullptr);

  void load(const store::WeightSource* source);
  // DoRA's magnitudes of new adapters: the norms of w + s B A, row by row (PEFT's DoraLinearLayer.update_layer). Once A and B are there.
  void start_magnitudes();
  // Takes the gradients' memory. Only a model that is trained needs it.
  void take_gradients(comm::Rank&, store::Waits = store::Waits::as_sums);

  // The layer ready to compute with; `next`: the one wanted after it, -1 if none. Adapters come in the type of the activations, copied into
  // the caller's scope where that is not f32; with `unpack` so do the matrices, each once. `few`: see WeightStore.
  LayerParams acquire(comm::Rank&, int layer, int next, bool unpack, bool few = false);
  void release(int layer, bool changed = false) { weights_.release(layer, changed); }
  // The layer's gradients, to add to, until they are closed. `first`, `next` and `keep`: see GradientStore.
  LayerGrads open_gradients(int layer, bool first, int next);
  void close_gradients(int layer, bool keep) { gradients_->close(layer, keep); }
  int lowest_trained_layer() const;  // of those that hold something trained; as many as there are layers: none does

  // y (T, C) = the rows of ids (T), overwritten, from wherever the table lies.
  void embed(comm::Rank&, Tensor y, Tensor ids) const;
  const quant::Weight& final_norm() const { return weights_.outside(final_norm_index); }
  const quant::Weight& head() const { return weights_.outside(spec_.tied_head ? embedding_index : head_index); }
  // Gradients outside the layers; null where frozen.
  Tensor d_embedding() const { return outside_gradient(embedding_index); }
  Tensor d_final_norm() const { return outside_gradient(final_norm_index); }
  Tensor d_head() const { return outside_gradient(spec_.tied_head ? embedding_index : head_index); }

  // Everything that is trained: its spec (layer, role), value and gradient. First what is outside all layers, then each layer's weights and adapters.
  // Weights of a layer that travels are where they live, which is pinned memory, and all its gradients null.
  struct Trained { const store::ParamSpec* spec; Tensor value, gradient; bool on_host = false; };
  std::vector<Trained> trained() const;
  // The same of one layer (-1: outside all layers) that is resident, or acquired.
  std::vector<Trained> trained(int layer) const;
  int alike(int layer) const { return tables_->alike[size_t(layer)]; }  // the first layer of its structure, of which the same is trained
  const store::GradientStore& gradients() const { return *gradients_; }
  const std::vector<store::ParamSpec>& adapters() const { return tables_->adapters; }
  const store::WeightStore& weights() const { return weights_; }
  store::WeightStore& weights() { return weights_; }
  // Are its trained weights, and with them its gradients, on the device for its turn alone?
  bool travels(int layer) const { return method_.weights.layers[layer].any() && !weights_.is_resident(layer); }
  bool any_travels() const;
  const ModelSpec& spec() const { return spec_; }
  const Method& method() const { return method_; }

 private:
  std::array<Tensor, layer_param_count> squares_of(int layer) const;
  void measure_norms(comm::Rank&, int layer, LayerParams&) const;
  // Calls f(param, index among the layer's modules with adapters, its first row there, its rows) for each matrix with an adapter. Several of one module
  // have one index.
  template <class F> void each_adapted(int layer, LayerGroup, F&&) const;
  LayerAdapters of_layer(int layer, Tensor used) const;
  void add_trained(std::vector<Trained>&, int layer, std::span<const quant::Weight> weights) const;
  Tensor outside_gradient(size_t i) const;
  bool has_adapters(int layer) const { return first_adapter(layer) < first_adapter(layer + 1); }
  size_t first_adapter(int layer) const { return tables_->first_adapter[size_t(layer)]; }
  const std::vector<LayerParam>& present(int layer) const { return tables_->present[size_t(layer)]; }

  comm::Rank& rank_;
  ModelSpec spec_;
  Method method_;
  std::shared_ptr<const Tables> tables_;
  store::WeightStore weights_;
  std::array<quant::Unpacked, layer_param_count> unpacked_;        // of the layer acquired last
  std::optional<store::FlatStore> adapters_;
  std::optional<store::GradientStore> gradients_;
  std::optional<store::FlatStore> squares_;                        // of the rows of each module with a DoRA adapter, in their order
};

}  // namespace thimble::nn
