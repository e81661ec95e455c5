// What is trained is in the table's order for full tuning, in the adapters' order otherwise.
#include "nn/model.h"

#include <algorithm>

#include "ops/elementwise.h"
#include "ops/embedding.h"

namespace thimble::nn {

Model::Model(comm::Rank& rank, const ModelSpec& spec, const Method& method, const store::Residency& residency)
    : spec_(spec), method_(method), residency_(residency), weights_(rank, parameters(spec, method.format, method.trains_weights), residency) {
  check(!method.trains_weights || method.format == quant::FormatId::dense, "weights that are trained are dense");
  check(!residency.embedding_on_host || (!spec.tied_head && !method.trains_weights), "an embedding that lies on the host is frozen, and no head");
  for (const auto& l : spec.layers) present_.push_back(layer_params(l));
  if (method.lora.rank == 0) return;
  const auto specs = adapter_parameters(spec, method.lora);
  adapters_.emplace(rank, Use::adapters, "adapters", specs);
  for (int l = 0; l <= int(spec.layers.size()); ++l)
    first_adapter_.push_back(int(std::find_if(specs.begin(), specs.end(), [&](const auto& p) { return p.layer >= l; }) - specs.begin()));
}

void Model::take_gradients(comm::Rank& rank, bool homes) {
  if (!method_.trains_weights) {
    gradients_.emplace(rank, adapters_->specs(), store::Residency{residency_.layers, residency_.layers}, homes);
    return;
  }
  std::vector<store::ParamSpec> specs;
  weights_.table().for_each([&](const store::ParamSpec& p) { specs.push_back(p); });
  gradients_.emplace(rank, specs, residency_, homes);
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

// `used`: the layer's tensors as they are computed with, or their gradients, the first one first.
LayerAdapters Model::of_layer(int layer, Tensor used) const {
  LayerAdapters of;
  const store::FlatStore& all = *adapters_;
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
  if (!has_adapters(layer)) return p;
  const Tensor values = adapters_->range(size_t(first_adapter_[size_t(layer)]), size_t(first_adapter_[size_t(layer) + 1] - 1));
  Tensor used = values;
  if (rank.compute() != DType::f32) {
    used = rank.memory.take(Use::scratch, "adapters of a layer", rank.compute(), values.shape);
    ops::convert(rank.stream, used, values);
  }
  p.lora = of_layer(layer, used);
  return p;
}

LayerGrads Model::open_gradients(int layer, bool first, int next) {
  LayerGrads g;
  check(gradients_.has_value(), "a model that is trained has gradients");
  if (method_.trains_weights) {
    gradients_->open(layer, first, next);
    for (size_t i = 0; i < present_[size_t(layer)].size(); ++i) g.weight[present_[size_t(layer)][i]] = gradients_->at(layer, i);
  } else if (has_adapters(layer)) {
    g.lora = of_layer(layer, gradients_->all(layer));
  }
  return g;
}

void Model::close_gradients(int layer, bool keep) {
  if (method_.trains_weights) gradients_->close(layer, keep);
}

std::vector<Model::Trained> Model::trained(int layer) const {
  std::vector<Trained> all;
  const auto gradient = [&] { return gradients_ && gradients_->is_open(layer) ? gradients_->at(layer, all.size()) : Tensor{}; };
  if (method_.trains_weights) {
    const auto& specs = layer < 0 ? weights_.table().outside : weights_.table().layers[size_t(layer)];
    for (size_t i = 0; i < specs.size(); ++i) all.push_back({&specs[i], (layer < 0 ? weights_.outside(i) : weights_.now(layer)[i]).dense(), gradient()});
  } else if (layer >= 0 && has_adapters(layer)) {
    for (int i = first_adapter_[size_t(layer)]; i < first_adapter_[size_t(layer) + 1]; ++i) all.push_back({&adapters_->specs()[size_t(i)], (*adapters_)[size_t(i)], gradient()});
  }
  return all;
}

std::vector<Model::Trained> Model::trained() const {
  std::vector<Trained> all;
  for (int l = -1; l < int(spec_.layers.size()); ++l) {
    if (method_.trains_weights && l >= 0 && !weights_.is_resident(l)) {
      const auto weights = weights_.at_home(l);
      for (size_t i = 0; i < weights.size(); ++i) all.push_back({&weights_.table().layers[size_t(l)][i], weights[i].dense(), {}, true});
      continue;
    }
    const auto of = trained(l);
    all.insert(all.end(), of.begin(), of.end());
  }
  return all;
}

}  // namespace thimble::nn
