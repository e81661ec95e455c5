// The table of a decoder: the one place where the names and shapes of its parameters stand.
#include "nn/params.h"

#include <fmt/core.h>

namespace thimble::nn {

Shape layer_param_shape(const ModelSpec& m, const LayerSpec& l, int param) {
  switch (param) {
    case q_proj: return {l.heads * l.head_dim, m.hidden};
    case k_proj: case v_proj: return {l.kv_heads * l.head_dim, m.hidden};
    case o_proj: return {m.hidden, l.heads * l.head_dim};
    case gate_proj: case up_proj: return {l.ffn, m.hidden};
    case down_proj: return {m.hidden, l.ffn};
    case q_bias: return {l.heads * l.head_dim};
    case k_bias: case v_bias: return {l.kv_heads * l.head_dim};
    case gate_bias: case up_bias: return {l.ffn};
    case q_norm: case k_norm: return {l.head_dim};
    default: return {m.hidden};
  }
}

namespace {

bool has(const LayerSpec& l, int param) {
  switch (param) {
    case q_bias: case k_bias: case v_bias: return l.qkv_bias;
    case o_bias: return l.o_bias;
    case gate_bias: case up_bias: case down_bias: return l.mlp_bias;
    case q_norm: case k_norm: return l.head_norms;
    case norm_after_attention: case norm_after_mlp: return l.norms_after;
    default: return true;
  }
}

bool is_bias(int param) {
  for (int p = 0; p < layer_param_count; ++p)
    if (is_matrix(p) && bias_of(p) == param) return true;
  return false;
}

store::Role role_of(int param) { return is_matrix(param) ? store::Role::linear : is_bias(param) ? store::Role::bias : store::Role::norm; }

// q k v, and gate and up, as rows of one tensor of the files each.
void place_in_fused(const ModelSpec& m, const LayerSpec& l, int layer, std::vector<store::ParamSpec>& specs) {
  for (const LayerGroup group : {qkv_group, gate_up_group}) {
    int64_t rows = 0;
    std::vector<store::ParamSpec*> parts;
    for (auto& p : specs)
      for (int i = members_of[group].first; i < members_of[group].first + members_of[group].count; ++i)
        if (p.name == layer_param_name(l, layer, i)) p.shared_row = rows, rows += layer_param_shape(m, l, i)[0], parts.push_back(&p);
    for (auto* p : parts) p->shared = fmt::format("model.layers.{}.{}.weight", layer, fused_leaf_names[group]), p->shared_rows = rows;
  }
}

}  // namespace

std::vector<LayerParam> layer_params(const LayerSpec& l) {
  std::vector<LayerParam> present;
  for (int p = 0; p < layer_param_count; ++p)
    if (has(l, p)) present.push_back(LayerParam(p));
  return present;
}

std::string layer_param_name(const LayerSpec& l, int layer, int param) {
  const char* leaf = param == norm_mlp && l.norms_after ? "pre_feedforward_layernorm" : leaf_names[param];
  return fmt::format("model.layers.{}.{}.{}", layer, leaf, is_bias(param) ? "bias" : "weight");
}

std::string module_of(const ModelSpec& m, int layer, int param) {
  for (int g = 0; g < layer_group_count; ++g)
    if (const auto [first, count] = members_of[g]; m.fused_files && count > 1 && param >= first && param < first + count)
      return fmt::format("model.layers.{}.{}", layer, fused_leaf_names[g]);
  const std::string name = layer_param_name(m.layers[size_t(layer)], layer, param);
  return name.substr(0, name.rfind('.'));
}

DType file_dtype(const ModelSpec& m) { return m.dtype == "bfloat16" ? DType::bf16 : m.dtype == "float16" ? DType::f16 : DType::f32; }

LoraSpec lora_on(int64_t rank, float scale, const std::function<bool(int param)>& on, bool fused) {
  LayerLora layer{.fused = fused};
  for (int p = 0; p < layer_param_count; ++p)
    if (is_matrix(p) && on(p)) layer.of[size_t(p)] = {rank, scale};
  return {.layers = {layer}};
}

TrainedWeights all_weights(DType dtype) {
  TrainedWeights::Layer layer;
  layer.of.fill(true);
  return {.embedding = true, .final_norm = true, .head = true, .layers = {layer}, .dtype = dtype};
}

store::ParamTable parameters(const ModelSpec& m, quant::FormatId format, const TrainedWeights& trained, quant::FormatId head) {
  store::ParamTable table;
  const auto spec = [&](std::string name, Shape shape, store::Role role, int layer, quant::FormatId stored, bool is_trained) {
    return store::ParamSpec{.name = std::move(name), .shape = shape, .role = role, .layer = layer, .format = is_trained ? quant::FormatId::dense : stored,
                            .dtype = is_trained ? trained.dtype : file_dtype(m), .trained = is_trained, .about_zero = role == store::Role::norm && m.norm_offset != 0};
  };
  const auto dense = quant::FormatId::dense;
  table.outside.push_back(spec("model.embed_tokens.weight", {m.vocab, m.hidden}, store::Role::embedding, -1, m.tied_head ? head : dense, trained.embedding));
  if (m.tied_head) table.outside.back().also = "lm_head.weight";
  table.outside.push_back(spec("model.norm.weight", {m.hidden}, store::Role::norm, -1, dense, trained.final_norm));
  if (!m.tied_head) table.outside.push_back(spec("lm_head.weight", {m.vocab, m.hidden}, store::Role::head, -1, head, trained.head));
  for (int l = 0; l < int(m.layers.size()); ++l) {
    auto& layer = table.layers.emplace_back();
    const LayerSpec& of = m.layers[size_t(l)];
    for (const LayerParam p : layer_params(of)) {
      const std::string name = layer_param_name(of, l, p);
      const bool packed = is_matrix(p) && !m.stored.keeps(std::string_view(name).substr(0, name.rfind('.')));
      // What a packed folder keeps plain stays so; in another format than the folder's all matrices are alike.
      const bool plain = !is_matrix(p) || (!packed && m.stored.format == format);
      layer.push_back(spec(name, layer_param_shape(m, of, p), role_of(p), l, plain ? dense : format, trained.layers[l].of[p]));
      layer.back().stored = packed ? m.stored.format : dense;
    }
    if (m.fused_files) place_in_fused(m, of, l, layer);
  }
  return table;
}

std::vector<store::ParamSpec> adapter_parameters(const ModelSpec& m, const LoraSpec& lora) {
  std::vector<store::ParamSpec> specs;
  for (int l = 0; l < int(m.layers.size()); ++l) {
    const LayerLora& of = lora.layers[l];
    for (int g = 0; g < layer_group_count; ++g) {
      const int first = members_of[g].first, count = members_of[g].count;  // not bindings, which no lambda of clang 16 takes
      if (of.shares_a(LayerGroup(g)) && of.on(first)) {
        const Shape w = layer_param_shape(m, m.layers[size_t(l)], first);
        const int64_t rank = of.of[size_t(first)].rank;
        int64_t rows = 0;
        for (int p = first; p < first + count; ++p) rows += layer_param_shape(m, m.layers[size_t(l)], p)[0];
        const auto add = [&](Shape shape, store::Role role) {
          specs.push_back({.name = fmt::format("model.layers.{}.{}.weight", l, fused_leaf_names[g]), .shape = shape, .role = role, .layer = l, .trained = true});
        };
        add({rank, w[1]}, store::Role::lora_a);
        add({rows, rank}, store::Role::lora_b);
        if (lora.dora) add({rows}, store::Role::lora_magnitude);
        continue;
      }
      const auto each = [&](auto&& add) {
        for (int p = first; p < first + count; ++p)
          if (of.on(p)) add(p, layer_param_shape(m, m.layers[size_t(l)], p), of.of[size_t(p)].rank);
      };
      bool stacked = false;
      const auto spec = [&](int p, Shape shape, store::Role role) {
        return store::ParamSpec{.name = layer_param_name(m.layers[size_t(l)], l, p), .shape = shape, .role = role, .layer = l, .trained = true};
      };
      each([&](int p, const Shape& w, int64_t rank) {
        specs.push_back(spec(p, {rank, w[1]}, store::Role::lora_a));
        specs.back().adjoins = stacked;
        stacked = true;
      });
      each([&](int p, const Shape& w, int64_t rank) { specs.push_back(spec(p, {w[0], rank}, store::Role::lora_b)); });
      if (lora.dora) each([&](int p, const Shape& w, int64_t) { specs.push_back(spec(p, {w[0]}, store::Role::lora_magnitude)); });
    }
  }
  return specs;
}

}  // namespace thimble::nn
