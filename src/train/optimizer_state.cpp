// A group's states lie one behind the other, laid out once; where the group is, its base says.
#include "train/optimizer_state.h"

#include <algorithm>

#include "ops/elementwise.h"
#include "store/adapter_files.h"

namespace thimble::train {

OptimizerState::OptimizerState(comm::Rank& rank, const std::vector<nn::Model::Trained>& trained, optim::OptimizerId id, bool paged, Rates rates)
    : rank_(rank), id_(id) {
  int last_layer = -2;
  for (const auto& t : trained) {
    if (t.spec->layer != last_layer || t.spec->layer < 0) groups_.emplace_back();
    last_layer = t.spec->layer;
    Group& g = groups_.back();
    g.layer = t.spec->layer;
    int n = 0;
    const auto parts = optim::states_of(id, t.value.shape, n);
    const bool is_norm = t.spec->role == store::Role::norm || t.spec->role == store::Role::bias;
    optim::Update u{.param = t.value, .grad = {}, .weight_decay = is_norm ? rates.decay_of_norms : rates.decay,
                    .rate = t.spec->role == store::Role::lora_b ? rates.lora_b : 1};
    auto& offsets = g.offsets.emplace_back();
    for (int i = 0; i < n; ++i) {
      u.states[size_t(i)] = Tensor{nullptr, parts[size_t(i)].dtype, parts[size_t(i)].shape};
      offsets[size_t(i)] = g.bytes;
      g.bytes += aligned(u.states[size_t(i)].bytes());
    }
    g.specs.push_back(t.spec);
    g.updates.push_back(u);
  }
  int64_t largest = 0;
  for (Group& g : groups_) {
    if (g.bytes > 0) g.home = (paged ? rank.pinned : rank.memory).take(Use::optimizer, "optimizer states", DType::u8, {g.bytes});
    largest = std::max(largest, g.bytes);
  }
  if (paged && largest > 0) ring_ = std::make_unique<Ring>(rank.stream, rank.memory, "optimizer states", 2, largest);
}

std::span<const optim::Update> OptimizerState::placed(Group& g, std::byte* base) {
  for (size_t i = 0; i < g.updates.size(); ++i)
    for (size_t s = 0; s < 4; ++s)
      if (g.updates[i].states[s].count() && g.updates[i].states[s].shape.rank()) g.updates[i].states[s].data = base + g.offsets[i][s];
  return g.updates;
}

void OptimizerState::reset() {
  for (size_t i = 0; i < groups_.size(); ++i) {
    Group& g = groups_[i];
    const Tensor bytes = ring_ ? ring_->acquire_to_fill(int(i), g.bytes) : g.home;
    optim::zero_states(rank_.stream, id_, placed(g, static_cast<std::byte*>(bytes.data)));
    if (ring_) ring_->release(int(i), g.home);
  }
  if (ring_) ring_->forget();
}

int OptimizerState::index_of(int layer) const {
  const auto g = std::find_if(groups_.begin(), groups_.end(), [&](const Group& of) { return of.layer == layer; });
  return g == groups_.end() ? -1 : int(g - groups_.begin());
}

void OptimizerState::update(int layer, std::span<const nn::Model::Trained> trained, Tensor scalars, const optim::Hyper& hyper, int next) {
  const auto is_of = [&](int i, int l) { return i >= 0 && i < int(groups_.size()) && groups_[size_t(i)].layer == l; };
  size_t done = 0;
  for (int i = index_of(layer); is_of(i, layer); ++i) {
    Group& g = groups_[size_t(i)];
    check(done + g.updates.size() <= trained.size(), "an update is of all that is trained of a layer");
    for (auto& u : g.updates) {
      const auto& [spec, value, gradient, on_host] = trained[done++];
      u.param = value, u.grad = gradient;
    }
    const Tensor bytes = ring_ ? ring_->acquire(i, g.home) : g.home;
    const int after = is_of(i + 1, layer) ? i + 1 : next < 0 ? -1 : index_of(next);
    if (ring_ && after >= 0) ring_->prefetch(after, groups_[size_t(after)].home);
    optim::update(rank_.stream, id_, placed(g, static_cast<std::byte*>(bytes.data)), scalars, hyper);
    if (ring_) ring_->release(i, g.home);
  }
  check(done == trained.size(), "an update is of all that is trained of a layer");
}

void OptimizerState::drain() {
  if (ring_) ring_->drain();
}

std::string OptimizerState::State::name() const { return store::name_in_file(*of) + std::string(suffix); }

std::vector<OptimizerState::State> OptimizerState::states() const {
  std::vector<State> all;
  all.reserve(4 * groups_.size() * (groups_.empty() ? 0 : groups_.back().updates.size()));
  for (const Group& g : groups_)
    for (size_t i = 0; i < g.updates.size(); ++i) {
      int n = 0;
      const auto parts = optim::states_of(id_, g.updates[i].param.shape, n);
      for (size_t s = 0; s < size_t(n); ++s)
        all.push_back({g.specs[i], parts[s].suffix, {static_cast<std::byte*>(g.home.data) + g.offsets[i][s], parts[s].dtype, parts[s].shape}});
    }
  return all;
}

void OptimizerState::changed() {
  if (ring_) ring_->forget();
}

}  // namespace thimble::train
