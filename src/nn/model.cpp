// Gradients lie in the order of what is trained: the table's order for full tuning, the adapters' order otherwise.
#include "nn/model.h"

#include <algorithm>

#include "ops/elementwise.h"
#include "ops/embedding.h"

namespace thimble::nn {

Model::Model(comm::Rank& rank, const ModelSpec& spec, const Method& method, const store::Residency& residency)
    : spec_(spec), method_(method), weights_(rank, parameters(spec, method.format, method.trains_weights), residency) {
  check(!method.trains_weights || (method.format == quant::FormatId::dense && residency.resident == residency.layers),
        "weights that are trained are dense and resident");
  check(!residency.embedding_on_host || (!spec.tied_head && !method.trains_weights), "an embedding that lies on the host is frozen, and no head");
  size_t first = weights_.table().outside.size();
  for (const auto& l : spec.layers) {
    present_.push_back(layer_params(l));
    first_weight_.push_back(first);
    first += present_.back().size();
  }
  if (method.lora.rank == 0) return;
  const auto specs = adapter_parameters(spec, method.lora);
  adapters_.emplace(rank, Use::adapters, "adapters", specs);
  for (int l = 0; l <= int(spec.layers.size()); ++l)
    first_adapter_.push_back(int(std::find_if(specs.begin(), specs.end(), [&](const auto& p) { return p.layer >= l; }) - specs.begin()));
}

void Model::take_gradients(comm::Rank& rank) {
  std::vector<store::ParamSpec> specs;
  if (method_.trains_weights) weights_.table().for_each([&](const store::ParamSpec& p) { specs.push_back(p); });
  else specs = adapters_->specs();
  gradients_.emplace(rank, Use::gradients, "gradients", specs);
}

void Model::embed(comm::Rank& rank, Tensor y, Tensor ids) const {
  const Tensor table = weights_.outside(embedding_index).dense();
  if (weights_.on_host(weights_.table().outside[embedding_index])) {  // the kernel fetches the rows itself: a copy that it waits for
    constexpr const char* rows = "embedding rows";
    rank.ledger.copied(Tier::pinned, Tier::device, rows, 0, ids.count() * table.shape.row() * size_of(table.dtype));
    rank.ledger.waited(rows, 0);
  }
  ops::embedding(rank.stream, y, ids, table);
}

// `used`: the layer's tensors as they are computed with, its first one first.
LayerAdapters Model::of_layer(const store::FlatStore& all, int layer, Tensor used) const {
  LayerAdapters of;
  auto i = size_t(first_adapter_[size_t(layer)]);
  const float* begin = all[i].get<float>();
  const auto in_use = [&](const Shape& shape) { return Tensor{static_cast<std::byte*>(used.data) + (all[i].get<float>() - begin) * size_of(used.dtype), used.dtype, shape}; };
  for (int g = 0; g < layer_group_count; ++g) {
    const int64_t rows = method_.lora.rows(LayerGroup(g));
    if (rows == 0) continue;
    of.a[size_t(g)] = in_use({rows, all[i].shape[1]});
    i += size_t(rows / method_.lora.rank);
    for (int p = members_of[g].first; p < members_of[g].first + members_of[g].count; ++p)
      if (method_.lora.on(p)) of.b[size_t(p)] = in_use(all[i].shape), ++i;
  }
  return of;
}

LayerParams Model::acquire(comm::Rank& rank, int layer, int next, bool unpack) {
  LayerParams p{.weight = {weights_.acquire(layer, next), present_[size_t(layer)]}, .lora_scale = method_.lora.scale};
  for (int m = 0; unpack && m < layer_param_count; ++m) {
    auto& w = p.weight[m];
    if (!is_matrix(m) || (w.format == quant::FormatId::dense && w.dense().dtype == rank.compute())) continue;
    unpacked_[size_t(m)] = {rank.stream.scratch("unpacked layer", rank.compute(), w.shape)};
    w.unpacked = &unpacked_[size_t(m)];
  }
  if (!adapters_ || first_adapter_[size_t(layer)] == first_adapter_[size_t(layer) + 1]) return p;
  const Tensor values = adapters_->range(size_t(first_adapter_[size_t(layer)]), size_t(first_adapter_[size_t(layer) + 1] - 1));
  Tensor used = values;
  if (rank.compute() != DType::f32) {
    used = rank.memory.take(Use::scratch, "adapters of a layer", rank.compute(), values.shape);
    ops::convert(rank.stream, used, values);
  }
  p.lora = of_layer(*adapters_, layer, used);
  return p;
}

LayerGrads Model::gradients(int layer) const {
  LayerGrads g;
  check(gradients_.has_value(), "a model that is trained has gradients");
  if (method_.trains_weights)
    for (size_t i = 0; i < present_[size_t(layer)].size(); ++i) g.weight[present_[size_t(layer)][i]] = (*gradients_)[first_weight_[size_t(layer)] + i];
  else if (first_adapter_[size_t(layer)] < first_adapter_[size_t(layer) + 1]) g.lora = of_layer(*gradients_, layer, (*gradients_)[size_t(first_adapter_[size_t(layer)])]);
  return g;
}

std::vector<Model::Trained> Model::trained() const {
  std::vector<Trained> all;
  const auto gradient = [&] { return gradients_ ? (*gradients_)[all.size()] : Tensor{}; };
  if (method_.trains_weights) weights_.for_each([&](const store::ParamSpec& p, const quant::Weight& w) { all.push_back({&p, w.dense(), gradient()}); });
  else if (adapters_)
    for (size_t i = 0; i < adapters_->size(); ++i) all.push_back({&adapters_->specs()[i], (*adapters_)[i], gradient()});
  return all;
}

}  // namespace thimble::nn
