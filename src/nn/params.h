// The parameters of a decoder: which there are, in which order a layer holds them, and which matrices carry adapters.
#pragma once
#include <algorithm>
#include <array>
#include <functional>
#include <span>

#include "nn/spec.h"
#include "store/param_table.h"

namespace thimble::nn {

// What a layer may have, in the order of its slab: the order in which forward needs it. Which of these it has, its LayerSpec says.
enum LayerParam : uint8_t {
  norm_attention, q_proj, k_proj, v_proj, q_bias, k_bias, v_bias, q_norm, k_norm, o_proj, o_bias, norm_after_attention,
  norm_mlp, gate_proj, up_proj, gate_bias, up_bias, down_proj, down_bias, norm_after_mlp,
};
constexpr int layer_param_count = 20;
constexpr const char* leaf_names[layer_param_count] = {
    "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.q_norm", "self_attn.k_norm", "self_attn.o_proj", "self_attn.o_proj", "post_attention_layernorm",
    "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.down_proj", "post_feedforward_layernorm"};
// The bias beside a matrix; norm_attention, which is none, for what is no matrix.
constexpr LayerParam bias_of(int p) {
  switch (p) {
    case q_proj: return q_bias;
    case k_proj: return k_bias;
    case v_proj: return v_bias;
    case o_proj: return o_bias;
    case gate_proj: return gate_bias;
    case up_proj: return up_bias;
    case down_proj: return down_bias;
    default: return norm_attention;
  }
}
constexpr bool is_matrix(int p) { return bias_of(p) != norm_attention; }
std::vector<LayerParam> layer_params(const LayerSpec&);                     // what it has, in order
std::string layer_param_name(const LayerSpec&, int layer, int param);       // "model.layers.3.mlp.up_proj.weight"
Shape layer_param_shape(const ModelSpec&, const LayerSpec&, int param);
// The module of transformers that holds a matrix: "model.layers.3.mlp.up_proj", or "model.layers.3.mlp.gate_up_proj" where several are one.
std::string module_of(const ModelSpec&, int layer, int param);

// Matrices that read the same input, neighbours in a slab: their adapters share the products that read it.
enum LayerGroup : uint8_t { qkv_group, o_group, gate_up_group, down_group };
constexpr int layer_group_count = 4;
struct GroupMembers { int first, count; };
constexpr GroupMembers members_of[layer_group_count] = {{q_proj, 3}, {o_proj, 1}, {gate_proj, 2}, {down_proj, 1}};
constexpr const char* fused_leaf_names[layer_group_count] = {"self_attn.qkv_proj", "", "mlp.gate_up_proj", ""};  // where a family has them as one module

// A row for each layer; the last one stands for all layers that follow, and no row for none of it in any.
template <class Row>
class ByLayer {
 public:
  ByLayer() = default;
  ByLayer(std::initializer_list<Row> rows) : rows_(rows) {}
  const Row& operator[](int layer) const {
    static const Row none{};
    return rows_.empty() ? none : rows_[std::min(size_t(layer), rows_.size() - 1)];
  }
  void add(const Row& row) { rows_.push_back(row); }
  bool any() const { return std::any_of(rows_.begin(), rows_.end(), [](const Row& r) { return r.any(); }); }

 private:
  std::vector<Row> rows_;
};

// The adapters of a layer, by matrix.
struct LayerLora {
  struct Adapter { int64_t rank = 0; float scale = 1; bool operator==(const Adapter&) const = default; };  // rank 0: none; scale: alpha / rank, or alpha / sqrt(rank)
  std::array<Adapter, layer_param_count> of{};
  bool fused = false;  // the matrices of a group are one module: they have one A, and their B are rows of one
  bool on(int param) const { return of[size_t(param)].rank > 0; }
  bool shares_a(LayerGroup g) const { return fused && members_of[g].count > 1; }
  int64_t rows(LayerGroup g) const {                 // of the group's A: the one, or all of them stacked
    int64_t n = 0;
    for (int p = members_of[g].first; p < members_of[g].first + members_of[g].count; ++p) n = shares_a(g) ? of[size_t(p)].rank : n + of[size_t(p)].rank;
    return n;
  }
  bool any() const { return std::any_of(of.begin(), of.end(), [](const Adapter& a) { return a.rank > 0; }); }
  bool operator==(const LayerLora&) const = default;
};

// Adapters as PEFT has them (Hu et al. 2021). With `dora` (Liu et al. 2024) each carries its matrix's magnitudes too.
struct LoraSpec {
  ByLayer<LayerLora> layers;
  bool dora = false;
  float dropout = 0;                                 // share of an adapter's input that a step leaves out
  bool any() const { return layers.any(); }
};
// One rank and scale on all matrices, or on those that `on` says yes to. `fused`: see LayerLora.
LoraSpec lora_on(int64_t rank, float scale, const std::function<bool(int param)>& on = is_matrix, bool fused = false);

// Which weights of the base are trained.
struct TrainedWeights {
  struct Layer {
    std::array<bool, layer_param_count> of{};
    bool any() const { return std::find(of.begin(), of.end(), true) != of.end(); }
    bool operator==(const Layer&) const = default;
  };
  bool embedding = false, final_norm = false, head = false;  // a tied head is the embedding
  ByLayer<Layer> layers;
  DType dtype = DType::f32;  // or bf16, whatever the files hold: what they are kept and updated in
  bool any() const { return embedding || final_norm || head || layers.any(); }
};
TrainedWeights all_weights(DType dtype = DType::f32);

// All parameters: matrices of layers in `format`, the rest dense. Trained weights are never packed.
store::ParamTable parameters(const ModelSpec&, quant::FormatId format, const TrainedWeights& = {}, quant::FormatId head = quant::FormatId::dense);
constexpr size_t embedding_index = 0, final_norm_index = 1, head_index = 2;  // in ParamTable::outside; a tied head has no third
// A and B of every adapter, layer by layer, group by group: the A of a group as one matrix, then each B, then each magnitude; of a group that is one module
// one of each, by the module's name.
std::vector<store::ParamSpec> adapter_parameters(const ModelSpec&, const LoraSpec&);
DType file_dtype(const ModelSpec&);

// The adapters of one layer, or their gradients; null where there is none.
struct LayerAdapters {
  std::array<Tensor, layer_group_count> a{};         // (n R, K): stacked by LayerGroup; (R, K) of a group that shares it
  std::array<Tensor, layer_param_count> b{};         // (N, R) by LayerParam
  std::array<Tensor, layer_param_count> magnitude{}; // (N) f32, of DoRA
};

// The weights of a slab by LayerParam. One that the layer does not have is null: dense() is no tensor.
class LayerWeights {
 public:
  LayerWeights(std::span<const quant::Weight> slab, std::span<const LayerParam> present) {
    for (size_t i = 0; i < present.size(); ++i) at_[present[i]] = slab[i];
  }
  const quant::Weight& operator[](int param) const { return at_[size_t(param)]; }
  quant::Weight& operator[](int param) { return at_[size_t(param)]; }

 private:
  std::array<quant::Weight, layer_param_count> at_{};
};

// What one layer computes with, and where its gradients go; null where there is none.
struct LayerParams {
  LayerWeights weight;
  LayerAdapters lora{};                              // A and B in the type of the activations
  const LayerLora* lora_spec = nullptr;
  std::array<Tensor, layer_param_count> norm{};      // (N) f32, of DoRA: of the rows of w + s B A
  bool generating = false;                           // products of a few tokens read the packed bytes
  bool shares_a(LayerGroup g) const { return lora_spec->shares_a(g); }
  float scale(int param) const { return lora_spec->of[size_t(param)].scale; }
};
struct LayerGrads {
  std::array<Tensor, layer_param_count> weight{};    // f32
  LayerAdapters lora{};                              // f32
};

}  // namespace thimble::nn
