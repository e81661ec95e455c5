// The table of a Llama-shaped decoder: the one place where the names and shapes of its parameters stand.
#include "nn/params.h"

#include <fmt/core.h>

namespace thimble::nn {
namespace {

Shape shape_of(const ModelSpec& m, const LayerSpec& l, int param) {
  switch (param) {
    case q_proj: return {l.heads * l.head_dim, m.hidden};
    case k_proj: case v_proj: return {l.kv_heads * l.head_dim, m.hidden};
    case o_proj: return {m.hidden, l.heads * l.head_dim};
    case gate_proj: case up_proj: return {l.ffn, m.hidden};
    case down_proj: return {m.hidden, l.ffn};
    default: return {m.hidden};
  }
}

}  // namespace

std::string layer_param_name(int layer, int param) { return fmt::format("model.layers.{}.{}.weight", layer, leaf_names[param]); }

DType file_dtype(const ModelSpec& m) { return m.dtype == "bfloat16" ? DType::bf16 : m.dtype == "float16" ? DType::f16 : DType::f32; }

store::ParamTable parameters(const ModelSpec& m, quant::FormatId format, bool trained) {
  const DType dtype = trained ? DType::f32 : file_dtype(m);
  const auto dense = quant::FormatId::dense;
  store::ParamTable table;
  table.outside.push_back({"model.embed_tokens.weight", {m.vocab, m.hidden}, store::Role::embedding, -1, dense, dtype});
  table.outside.push_back({"model.norm.weight", {m.hidden}, store::Role::norm, -1, dense, dtype});
  if (!m.tied_head) table.outside.push_back({"lm_head.weight", {m.vocab, m.hidden}, store::Role::head, -1, dense, dtype});
  for (int l = 0; l < int(m.layers.size()); ++l) {
    auto& layer = table.layers.emplace_back();
    for (int p = 0; p < layer_param_count; ++p)
      layer.push_back({layer_param_name(l, p), shape_of(m, m.layers[size_t(l)], p), is_matrix(p) ? store::Role::linear : store::Role::norm, l,
                       is_matrix(p) ? format : dense, dtype});
  }
  return table;
}

std::vector<store::ParamSpec> adapter_parameters(const ModelSpec& m, const LoraSpec& lora) {
  std::vector<store::ParamSpec> specs;
  for (int l = 0; l < int(m.layers.size()); ++l)
    for (const auto& [first, count] : members_of) {
      const auto each = [&](auto&& add) {
        for (int p = first; p < first + count; ++p)
          if (lora.on(p)) add(p, shape_of(m, m.layers[size_t(l)], p));
      };
      bool stacked = false;
      each([&](int p, const Shape& w) {
        specs.push_back({.name = layer_param_name(l, p), .shape = {lora.rank, w[1]}, .role = store::Role::lora_a, .layer = l, .adjoins = stacked});
        stacked = true;
      });
      each([&](int p, const Shape& w) { specs.push_back({.name = layer_param_name(l, p), .shape = {w[0], lora.rank}, .role = store::Role::lora_b, .layer = l}); });
    }
  return specs;
}

}  // namespace thimble::nn
