// The parameters of a decoder: which there are, in which order a layer holds them, and which matrices carry adapters.
#pragma once
#include <array>
#include <span>

#include "nn/spec.h"
#include "ops/lora.h"
#include "store/param_table.h"

namespace thimble::nn {

// A layer's parameters in the order of its slab: the order in which forward needs them.
enum LayerParam : uint8_t { norm_attention, q_proj, k_proj, v_proj, o_proj, norm_mlp, gate_proj, up_proj, down_proj };
constexpr int layer_param_count = 9;
constexpr const char* leaf_names[layer_param_count] = {"input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                       "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"};
constexpr bool is_matrix(int p) { return p != norm_attention && p != norm_mlp; }
std::string layer_param_name(int layer, int param);  // "model.layers.3.mlp.up_proj.weight"

struct LoraSpec {
  int64_t rank = 0;                                  // 0: no adapters
  float scale = 1;                                   // alpha / rank, or alpha / sqrt(rank)
  std::array<bool, layer_param_count> targets{};     // matrices that carry one
  bool on(int param) const { return rank > 0 && targets[size_t(param)]; }
};

// All parameters: matrices of layers in `format`, the rest dense. Trained weights are f32 whatever the files hold.
store::ParamTable parameters(const ModelSpec&, quant::FormatId format, bool trained);
constexpr size_t embedding_index = 0, final_norm_index = 1, head_index = 2;  // in ParamTable::outside; a tied head has no third
// A and B of every adapter, layer by layer in the order of LayerParam: a, b, a, b ...
std::vector<store::ParamSpec> adapter_parameters(const ModelSpec&, const LoraSpec&);
DType file_dtype(const ModelSpec&);

// What one layer computes with, and where its gradients go; null where there is none.
struct LayerParams {
  std::array<quant::Weight, layer_param_count> weight{};  // by LayerParam
  std::array<ops::Lora, layer_param_count> lora{};
};
struct LayerGrads {
  std::array<Tensor, layer_param_count> weight{};    // f32
  std::array<ops::LoraGrad, layer_param_count> lora{};
};

}  // namespace thimble::nn
