// Gradients lie in the order of what is trained: the table's order for full tuning, the adapters' order otherwise.
#include "nn/model.h"

#include <algorithm>

#include "ops/dora.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"

namespace thimble::nn {

Model::Model(comm::Rank& rank, const ModelSpec& spec, const Method& method, const store::Residency& residency)
    : rank_(rank), spec_(spec), method_(method), weights_(rank, parameters(spec, method.format, method.weights), residency) {
  check(!residency.embedding_on_host || (!spec.tied_head && !method.weights.embedding), "an embedding that lies on the host is frozen, and no head");
  const auto& table = weights_.table();
  const auto see = [&](const store::ParamSpec& p, const quant::Weight& w) {
    trained_.push_back({&p, w.dense(), {}});
    return int(trained_.size()) - 1;
  };
  for (size_t i = 0; i < table.outside.size(); ++i)
    if (table.outside[i].trained) outside_[i] = see(table.outside[i], weights_.outside(i));
  for (int l = 0; l < int(spec.layers.size()); ++l) {
    present_.push_back(layer_params(spec.layers[size_t(l)]));
    in_layer_.emplace_back().fill(frozen);
    const auto& specs = table.layers[size_t(l)];
    for (size_t i = 0; i < specs.size(); ++i)
      if (specs[i].trained) in_layer_.back()[present_.back()[i]] = see(specs[i], weights_.resident(l)[i]);
  }
  weights_trained_ = trained_.size();
  if (!method.lora.any()) return;
  adapters_.emplace(rank, Use::adapters, "adapters", adapter_parameters(spec, method.lora));
  const auto& specs = adapters_->specs();
  for (size_t i = 0; i < specs.size(); ++i) trained_.push_back({&specs[i], (*adapters_)[i], {}});
  for (int l = 0; l <= int(spec.layers.size()); ++l)
    first_adapter_.push_back(size_t(std::find_if(specs.begin(), specs.end(), [&](const auto& p) { return p.layer >= l; }) - specs.begin()));
  if (!method.lora.dora) return;
  std::vector<store::ParamSpec> magnitudes;
  std::copy_if(specs.begin(), specs.end(), std::back_inserter(magnitudes), [](const auto& p) { return p.role == store::Role::lora_magnitude; });
  squares_.emplace(rank, Use::weights, "squares of rows", magnitudes);
}

void Model::load(const store::WeightSource* source) {
  weights_.load(source);
  if (!squares_) return;
  size_t next = 0;
  for (int l = 0; l < int(spec_.layers.size()); ++l) {
    rank_.ledger.at_layer(l);
    const LayerWeights weights{weights_.acquire(l, l + 1), present_[size_t(l)]};
    for (const auto& members : members_of)
      for (int p = members.first; p < members.first + members.count; ++p)
        if (method_.lora.layers[l].on(p)) ops::row_squares(rank_.stream, (*squares_)[next++], weights[p], rank_.compute());
    weights_.release(l);
  }
  rank_.ledger.at_layer(-1);
}

void Model::start_magnitudes() {
  for (int l = 0; l < int(spec_.layers.size()); ++l) {
    const Scope scope(rank_.memory);
    const LayerParams p = acquire(rank_, l, l + 1 < int(spec_.layers.size()) ? l + 1 : -1, false);
    for (int m = 0; m < layer_param_count; ++m)
      if (p.lora.magnitude[size_t(m)]) ops::convert(rank_.stream, p.lora.magnitude[size_t(m)], p.norm[size_t(m)]);
    release(l);
  }
}

void Model::take_gradients(comm::Rank& rank) {
  std::vector<store::ParamSpec> specs;
  for (const Trained& t : trained_) specs.push_back(*t.spec);
  gradients_.emplace(rank, Use::gradients, "gradients", specs);
  for (size_t i = 0; i < trained_.size(); ++i) trained_[i].gradient = (*gradients_)[i];
}

int Model::lowest_trained_layer() const {
  int l = 0;
  while (l < int(spec_.layers.size()) && !method_.weights.layers[l].any() && !has_adapters(l)) ++l;
  return l;
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

// Adapters of a layer, which begin at `first` of `all`; `used`: these tensors as they are computed with. Magnitudes stay as they lie.
LayerAdapters Model::of_layer(const store::FlatStore& all, size_t first, int layer, Tensor used) const {
  LayerAdapters of;
  const LayerLora& lora = method_.lora.layers[layer];
  size_t i = first;
  const float* begin = all[i].get<float>();
  const auto in_use = [&](const Shape& shape) { return Tensor{static_cast<std::byte*>(used.data) + (all[i].get<float>() - begin) * size_of(used.dtype), used.dtype, shape}; };
  for (int g = 0; g < layer_group_count; ++g) {
    const int64_t rows = lora.rows(LayerGroup(g));
    if (rows == 0) continue;
    const auto each = [&](auto&& next) {
      for (int p = members_of[g].first; p < members_of[g].first + members_of[g].count; ++p)
        if (lora.on(p)) next(size_t(p)), ++i;
    };
    of.a[size_t(g)] = in_use({rows, all[i].shape[1]});
    each([](size_t) {});
    each([&](size_t p) { of.b[p] = in_use(all[i].shape); });
    if (method_.lora.dora) each([&](size_t p) { of.magnitude[p] = all[i]; });
  }
  return of;
}

LayerParams Model::acquire(comm::Rank& rank, int layer, int next, bool unpack) {
  LayerParams p{.weight = {weights_.acquire(layer, next), present_[size_t(layer)]}, .lora_spec = &method_.lora.layers[layer]};
  for (int m = 0; unpack && m < layer_param_count; ++m) {
    auto& w = p.weight[m];
    if (!is_matrix(m) || (w.format == quant::FormatId::dense && w.dense().dtype == rank.compute())) continue;
    unpacked_[size_t(m)] = {rank.stream.scratch("unpacked layer", rank.compute(), w.shape)};
    w.unpacked = &unpacked_[size_t(m)];
  }
  if (!has_adapters(layer)) return p;
  const size_t first = first_adapter_[size_t(layer)];
  const Tensor values = adapters_->range(first, first_adapter_[size_t(layer) + 1] - 1);
  Tensor used = values;
  if (rank.compute() != DType::f32) {
    used = rank.memory.take(Use::scratch, "adapters of a layer", rank.compute(), values.shape);
    ops::convert(rank.stream, used, values);
  }
  p.lora = of_layer(*adapters_, first, layer, used);
  if (squares_) measure_norms(rank, layer, p);
  return p;
}

void Model::measure_norms(comm::Rank& rank, int layer, LayerParams& p) const {
  size_t at = first_adapter_[size_t(layer)] / 3;  // in squares_: an adapter has an A, a B and a magnitude
  for (int g = 0; g < layer_group_count; ++g) {
    int64_t row = 0;
    for (int m = members_of[g].first; m < members_of[g].first + members_of[g].count; ++m) {
      const Tensor b = p.lora.b[size_t(m)];
      if (!b) continue;
      p.norm[size_t(m)] = rank.memory.take(Use::scratch, "norms of rows", DType::f32, {b.shape[0]});
      ops::dora_norm(rank.stream, p.norm[size_t(m)], (*squares_)[at++], p.weight[m], p.lora.a[size_t(g)].rows(row, b.shape[1]), b, p.scale(m));
      row += b.shape[1];
    }
  }
}

LayerGrads Model::gradients(int layer) const {
  LayerGrads g;
  check(gradients_.has_value(), "a model that is trained has gradients");
  for (int p = 0; p < layer_param_count; ++p) g.weight[size_t(p)] = gradient(in_layer_[size_t(layer)][size_t(p)]);
  if (has_adapters(layer)) {
    const size_t first = weights_trained_ + first_adapter_[size_t(layer)];
    g.lora = of_layer(*gradients_, first, layer, (*gradients_)[first]);
  }
  return g;
}

}  // namespace thimble::nn
