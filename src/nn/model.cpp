// Gradients lie in the order of what is trained: the table's order for full tuning, the adapters' order otherwise.
#include "nn/model.h"

#include <algorithm>

#include "ops/elementwise.h"

namespace thimble::nn {

Model::Model(comm::Rank& rank, const ModelSpec& spec, const Method& method, const store::Residency& residency)
    : spec_(spec), method_(method), weights_(rank, parameters(spec, method.format, method.trains_weights), residency) {
  check(!method.trains_weights || (method.format == quant::FormatId::dense && residency.resident == residency.layers),
        "weights that are trained are dense and resident");
  adapter_index_.resize(spec.layers.size());
  for (auto& layer : adapter_index_) layer.fill(-1);
  if (method.lora.rank == 0) return;
  adapters_.emplace(rank, Use::adapters, "adapters", adapter_parameters(spec, method.lora));
  int next = 0;
  for (auto& layer : adapter_index_)
    for (int p = 0; p < layer_param_count; ++p)
      if (is_matrix(p) && method.lora.on(p)) layer[size_t(p)] = next, next += 2;
}

void Model::take_gradients(comm::Rank& rank) {
  std::vector<store::ParamSpec> specs;
  if (method_.trains_weights) weights_.table().for_each([&](const store::ParamSpec& p) { specs.push_back(p); });
  else specs = adapters_->specs();
  gradients_.emplace(rank, Use::gradients, "gradients", specs);
}

LayerParams Model::acquire(comm::Rank& rank, int layer, int next, bool unpack) {
  LayerParams p;
  std::ranges::copy(weights_.acquire(layer, next), p.weight.begin());
  for (int m = 0; unpack && m < layer_param_count; ++m) {
    auto& w = p.weight[size_t(m)];
    if (!is_matrix(m) || (w.format == quant::FormatId::dense && w.dense().dtype == rank.compute())) continue;
    unpacked_[size_t(m)] = {rank.stream.scratch("unpacked layer", rank.compute(), w.shape)};
    w.unpacked = &unpacked_[size_t(m)];
  }
  const auto& index = adapter_index_[size_t(layer)];
  int first = -1, last = -1;
  for (const int i : index)
    if (i >= 0) first = first < 0 ? i : first, last = i + 1;
  if (first < 0) return p;
  const Tensor values = adapters_->range(size_t(first), size_t(last));
  Tensor used = values;
  if (rank.compute() != DType::f32) {
    used = rank.memory.take(Use::scratch, "adapters of a layer", rank.compute(), values.shape);
    ops::convert(rank.stream, used, values);
  }
  const auto in_use = [&](int i) {
    const Tensor& t = (*adapters_)[size_t(i)];
    const int64_t at = t.get<float>() - values.get<float>();
    return Tensor{static_cast<std::byte*>(used.data) + at * size_of(used.dtype), used.dtype, t.shape};
  };
  for (int m = 0; m < layer_param_count; ++m)
    if (const int i = index[size_t(m)]; i >= 0) p.lora[size_t(m)] = {in_use(i), in_use(i + 1), method_.lora.scale};
  return p;
}

LayerGrads Model::gradients(int layer) const {
  LayerGrads g;
  check(gradients_.has_value(), "a model that is trained has gradients");
  for (int m = 0; m < layer_param_count; ++m) {
    if (method_.trains_weights) g.weight[size_t(m)] = (*gradients_)[weights_.table().outside.size() + size_t(layer * layer_param_count + m)];
    if (const int i = adapter_index_[size_t(layer)][size_t(m)]; i >= 0) g.lora[size_t(m)] = {(*gradients_)[size_t(i)], (*gradients_)[size_t(i) + 1]};
  }
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
