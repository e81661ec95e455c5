// What is trained is listed layer by layer, weights as in the table, then adapters; gradients and optimizer states lie in that order.
#include "nn/model.h"

#include <algorithm>

#include "ops/dora.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"

namespace thimble::nn {

bool can_host_embedding(const ModelSpec& m, const Method& method, const DeviceSpec& spec) { return !m.tied_head && !method.weights.embedding && spec.reads_pinned; }

std::shared_ptr<const Tables> tables_of(const ModelSpec& spec, const Method& method) {
  auto tables = std::make_shared<Tables>();
  tables->weights = parameters(spec, method.format, method.weights, method.head);
  tables->adapters = adapter_parameters(spec, method.lora);
  tables->adapter_layout = store::FlatLayout(tables->adapters);
  for (int l = 0; l < int(spec.layers.size()); ++l) {
    tables->present.push_back(layer_params(spec.layers[size_t(l)]));
    int first = 0;
    const auto same = [&](const store::ParamSpec& a, const store::ParamSpec& b) { return a.shape == b.shape && a.format == b.format && a.dtype == b.dtype; };
    const auto alike = [&](int other) {
      return spec.layers[size_t(other)] == spec.layers[size_t(l)] && method.weights.layers[other] == method.weights.layers[l] && method.lora.layers[other] == method.lora.layers[l] &&
             std::ranges::equal(tables->weights.layers[size_t(other)], tables->weights.layers[size_t(l)], same);
    };
    while (!alike(first)) ++first;
    tables->alike.push_back(first);
  }
  auto next = tables->adapters.begin();
  for (int l = 0; l <= int(spec.layers.size()); ++l) {
    next = std::find_if(next, tables->adapters.end(), [&](const auto& p) { return p.layer >= l; });
    tables->first_adapter.push_back(size_t(next - tables->adapters.begin()));
  }
  return tables;
}

Model::Model(comm::Rank& rank, const ModelSpec& spec, const Method& method, const store::Residency& residency, std::shared_ptr<const Tables> tables)
    : rank_(rank), spec_(spec), method_(method), tables_(tables ? std::move(tables) : tables_of(spec, method)),
      weights_(rank, std::shared_ptr<const store::ParamTable>(tables_, &tables_->weights), residency) {
  check(!residency.embedding_on_host || (!spec.tied_head && !method.weights.embedding), "an embedding that lies on the host is frozen, and no head");
  if (tables_->adapters.empty()) return;
  adapters_.emplace(rank, Use::adapters, "adapters", tables_->adapter_layout);
  if (!method.lora.dora) return;
  store::FlatLayout squares;
  for (const auto& p : tables_->adapters)
    if (p.role == store::Role::lora_magnitude) squares.add(p);
  squares_.emplace(rank, Use::weights, "squares of rows", std::move(squares));
}

void Model::load(const store::WeightSource* source) {
  weights_.load(source);
  if (!squares_) return;
  for (int l = 0; l < int(spec_.layers.size()); ++l) {
    rank_.ledger.at_layer(l);
    const LayerWeights weights{weights_.acquire(l, l + 1), present(l)};
    const auto squares = squares_of(l);
    for (size_t p = 0; p < squares.size(); ++p)
      if (squares[p]) ops::row_squares(rank_.stream, squares[p], weights[int(p)], rank_.compute());
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

void Model::take_gradients(comm::Rank& rank, store::Waits waits) {
  std::vector<const store::ParamSpec*> specs;
  const auto add_trained = [&](const std::vector<store::ParamSpec>& of) {
    for (const auto& p : of)
      if (p.trained) specs.push_back(&p);
  };
  add_trained(weights_.table().outside);
  for (int l = 0; l < int(spec_.layers.size()); ++l) {
    if (method_.weights.layers[l].any()) add_trained(weights_.table().layers[size_t(l)]);
    for (size_t i = first_adapter(l); i < first_adapter(l + 1); ++i) specs.push_back(&tables_->adapters[i]);
  }
  gradients_.emplace(rank, specs, [&](int layer) { return travels(layer); }, waits);
}

bool Model::any_travels() const {
  bool any = false;
  for (int l = 0; l < int(spec_.layers.size()); ++l) any |= travels(l);
  return any;
}

int Model::lowest_trained_layer() const {
  int l = 0;
  while (l < int(spec_.layers.size()) && !method_.weights.layers[l].any() && !has_adapters(l)) ++l;
  return l;
}

void Model::embed(comm::Rank& rank, Tensor y, Tensor ids) const {
  const quant::Weight& table = weights_.outside(embedding_index);
  if (weights_.on_host(weights_.table().outside[embedding_index])) {  // the kernel fetches the rows itself: a copy that it waits for
    constexpr const char* rows = "embedding rows";
    rank.ledger.copied(Tier::pinned, Tier::device, rows, 0, ids.count() * table.shape.row() * size_of(table.dense().dtype));
    rank.ledger.waited(rows, 0);
  }
  ops::embedding(rank.stream, y, ids, table);
}

template <class F>
void Model::each_adapted(int layer, LayerGroup group, F&& f) const {
  const LayerLora& lora = method_.lora.layers[layer];
  const auto [first, count] = members_of[group];
  size_t module = 0;
  int64_t row = 0;
  for (int p = first; p < first + count; ++p) {
    if (!lora.on(p)) continue;
    const int64_t rows = layer_param_shape(spec_, spec_.layers[size_t(layer)], p)[0];
    f(size_t(p), module, row, rows);
    if (lora.shares_a(group)) row += rows;
    else ++module;
  }
}

// `used`: the layer's adapters as they are computed with, or their gradients, from the first one on. Magnitudes are f32: as they lie, where A and B are not.
LayerAdapters Model::of_layer(int layer, Tensor used) const {
  LayerAdapters of;
  const store::FlatStore& all = *adapters_;
  const LayerLora& lora = method_.lora.layers[layer];
  size_t i = first_adapter(layer);
  const float* begin = all[i].get<float>();
  const auto in_use = [&](const Tensor& t, const Shape& shape) { return Tensor{static_cast<std::byte*>(used.data) + (t.get<float>() - begin) * size_of(used.dtype), used.dtype, shape}; };
  for (int g = 0; g < layer_group_count; ++g) {
    const int64_t rows = lora.rows(LayerGroup(g));
    if (rows == 0) continue;
    size_t modules = 0;
    each_adapted(layer, LayerGroup(g), [&](size_t, size_t module, int64_t, int64_t) { modules = module + 1; });
    of.a[size_t(g)] = in_use(all[i], {rows, all[i].shape[1]});
    i += modules;
    each_adapted(layer, LayerGroup(g), [&](size_t p, size_t module, int64_t row, int64_t n) { of.b[p] = in_use(all[i + module], all[i + module].shape).rows(row, n); });
    i += modules;
    if (!method_.lora.dora) continue;
    each_adapted(layer, LayerGroup(g), [&](size_t p, size_t module, int64_t row, int64_t n) {
      const Tensor& magnitude = all[i + module];
      of.magnitude[p] = (used.dtype == DType::f32 ? in_use(magnitude, magnitude.shape) : magnitude).rows(row, n);
    });
    i += modules;
  }
  return of;
}

LayerParams Model::acquire(comm::Rank& rank, int layer, int next, bool unpack, bool few) {
  LayerParams p{.weight = {weights_.acquire(layer, next, few), present(layer)}, .lora_spec = &method_.lora.layers[layer]};
  for (int m = 0; unpack && m < layer_param_count; ++m) {
    auto& w = p.weight[m];
    if (!is_matrix(m) || (w.format == quant::FormatId::dense && w.dense().dtype == rank.compute())) continue;
    unpacked_[size_t(m)] = {rank.stream.scratch("unpacked layer", rank.compute(), w.shape)};
    w.unpacked = &unpacked_[size_t(m)];
  }
  if (!has_adapters(layer)) return p;
  const size_t first = first_adapter(layer);
  const Tensor values = adapters_->range(first, first_adapter(layer + 1) - 1);
  Tensor used = values;
  if (rank.compute() != DType::f32) {
    used = rank.memory.take(Use::scratch, "adapters of a layer", rank.compute(), values.shape);
    ops::convert(rank.stream, used, values);
  }
  p.lora = of_layer(layer, used);
  if (squares_) measure_norms(rank, layer, p);
  return p;
}

std::array<Tensor, layer_param_count> Model::squares_of(int layer) const {
  std::array<Tensor, layer_param_count> of{};
  size_t at = first_adapter(layer) / 3;  // an adapter has an A, a B and a magnitude
  for (int g = 0; g < layer_group_count; ++g) {
    size_t modules = 0;
    each_adapted(layer, LayerGroup(g), [&](size_t p, size_t module, int64_t row, int64_t n) {
      of[p] = (*squares_)[at + module].rows(row, n);
      modules = module + 1;
    });
    at += modules;
  }
  return of;
}

void Model::measure_norms(comm::Rank& rank, int layer, LayerParams& p) const {
  const auto squares = squares_of(layer);
  for (int g = 0; g < layer_group_count; ++g) {
    int64_t row = 0;
    for (int m = members_of[g].first; m < members_of[g].first + members_of[g].count; ++m) {
      const Tensor b = p.lora.b[size_t(m)];
      if (!b) continue;
      p.norm[size_t(m)] = rank.memory.take(Use::scratch, "norms of rows", DType::f32, {b.shape[0]});
      ops::dora_norm(rank.stream, p.norm[size_t(m)], squares[size_t(m)], p.weight[m], p.lora.a[size_t(g)].rows(row, b.shape[1]), b, p.scale(m));
      if (!p.shares_a(LayerGroup(g))) row += b.shape[1];
    }
  }
}

LayerGrads Model::open_gradients(int layer, bool first, int next) {
  LayerGrads g;
  check(gradients_.has_value(), "a model that is trained has gradients");
  if (!gradients_->has(layer)) return g;
  gradients_->open(layer, first, next);
  const auto& specs = weights_.table().layers[size_t(layer)];
  size_t at = 0;
  for (size_t i = 0; method_.weights.layers[layer].any() && i < specs.size(); ++i)
    if (specs[i].trained) g.weight[present(layer)[i]] = gradients_->at(layer, at++);
  if (has_adapters(layer)) g.lora = of_layer(layer, gradients_->at(layer, at));
  return g;
}

Tensor Model::outside_gradient(size_t i) const {
  const auto& specs = weights_.table().outside;
  if (!gradients_ || i >= specs.size() || !specs[i].trained) return {};
  return gradients_->at(-1, size_t(std::count_if(specs.begin(), specs.begin() + std::ptrdiff_t(i), [](const auto& p) { return p.trained; })));
}

void Model::add_trained(std::vector<Trained>& all, int layer, std::span<const quant::Weight> weights) const {
  const bool has_gradients = gradients_ && gradients_->is_open(layer);
  size_t at = 0;
  const auto add = [&](const store::ParamSpec& spec, Tensor value) { all.push_back({&spec, value, has_gradients ? gradients_->at(layer, at++) : Tensor{}}); };
  const auto& specs = layer < 0 ? weights_.table().outside : weights_.table().layers[size_t(layer)];
  const bool any = layer < 0 || method_.weights.layers[layer].any();
  for (size_t i = 0; any && i < specs.size(); ++i)
    if (specs[i].trained) add(specs[i], layer < 0 ? weights_.outside(i).dense() : weights[i].dense());
  if (layer < 0) return;
  for (size_t i = first_adapter(layer); i < first_adapter(layer + 1); ++i) add(tables_->adapters[i], (*adapters_)[i]);
}

std::vector<Model::Trained> Model::trained(int layer) const {
  std::vector<Trained> all;
  all.reserve(layer_param_count);
  add_trained(all, layer, layer < 0 ? std::span<const quant::Weight>{} : weights_.now(layer));
  return all;
}

std::vector<Model::Trained> Model::trained() const {
  std::vector<Trained> all;
  all.reserve(spec_.layers.size() + tables_->adapters.size());
  add_trained(all, -1, {});
  for (int l = 0; l < int(spec_.layers.size()); ++l) {
    if (!travels(l)) {
      add_trained(all, l, weights_.now(l));
      continue;
    }
    const size_t first = all.size();
    add_trained(all, l, weights_.at_home(l));
    for (Trained& t : std::span(all).subspan(first)) {
      t.on_host = !is_adapter(t.spec->role);
      t.gradient = {};
    }
  }
  return all;
}

}  // namespace thimble::nn
