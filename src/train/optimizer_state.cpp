// A group's states lie one behind the other, laid out once; where the group is, its base says.
#include "train/optimizer_state.h"

#include <algorithm>

#include "ops/elementwise.h"
#include "store/adapter_files.h"

namespace thimble::train {

constexpr uint32_t first_place = uint32_t{1} << 31;  // of the updates' draws: beyond those of all layers (nn/saved.h)

OptimizerState::OptimizerState(comm::Rank& rank, const nn::Model& model, optim::OptimizerId id, bool paged, Rates rates)
    : rank_(rank), model_(model), id_(id) {
  groups_.reserve(model.spec().layers.size() + 3);
  uint32_t place = first_place;
  for (const auto& t : model.trained()) {
    const int layer = t.spec->layer;
    if (groups_.empty() || layer < 0 || layer != groups_.back().layer) {
      const int kin = layer < 0 ? -1 : index_of(model.alike(layer));
      const auto index = int(groups_.size());
      groups_.push_back(kin < 0 ? Group{.alike = index} : groups_[size_t(kin)]);
      groups_.back().layer = layer;
      groups_.back().specs.clear();
    }
    Group& g = groups_.back();
    g.specs.push_back(t.spec);
    if (g.alike + 1 < int(groups_.size())) {  // laid out like its kin
      auto& u = g.updates[g.specs.size() - 1];
      u.param = t.value, u.place = place++;
      continue;
    }
    int n = 0;
    const auto parts = optim::states_of(id, t.value.shape, n);
    const bool is_norm = t.spec->role == store::Role::norm || t.spec->role == store::Role::bias;
    optim::Update u{.param = t.value, .grad = {}, .weight_decay = is_norm ? rates.decay_of_norms : rates.decay,
                    .rate = t.spec->role == store::Role::lora_b ? rates.lora_b : 1, .place = place++};
    auto& offsets = g.offsets.emplace_back();
    for (int i = 0; i < n; ++i) {
      u.states[size_t(i)] = Tensor{nullptr, parts[size_t(i)].dtype, parts[size_t(i)].shape};
      offsets[size_t(i)] = g.bytes;
      g.bytes += aligned(u.states[size_t(i)].bytes());
    }
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
    rank_.once_a_kind({"zero states", {g.alike}}, [&] {
      optim::zero_states(rank_.stream, id_, placed(g, static_cast<std::byte*>(bytes.data)));
      return 0;
    });
    if (ring_) ring_->release(int(i), g.home);
  }
  if (ring_) ring_->forget();
}

int OptimizerState::index_of(int layer) const {
  const auto g = std::find_if(groups_.begin(), groups_.end(), [&](const Group& of) { return of.layer == layer; });
  return g == groups_.end() ? -1 : int(g - groups_.begin());
}

void OptimizerState::update(int layer, Tensor scalars, const optim::Hyper& hyper, int next) {
  const auto is_of = [&](int i, int l) { return i >= 0 && i < int(groups_.size()) && groups_[size_t(i)].layer == l; };
  std::vector<nn::Model::Trained> trained;
  size_t done = 0;  // of these
  for (int i = index_of(layer); is_of(i, layer); ++i) {
    Group& g = groups_[size_t(i)];
    const Tensor bytes = ring_ ? ring_->acquire(i, g.home) : g.home;
    const int after = is_of(i + 1, layer) ? i + 1 : next < 0 ? -1 : index_of(next);
    if (ring_ && after >= 0) ring_->prefetch(after, groups_[size_t(after)].home);
    rank_.once_a_kind({"update", {g.alike, int64_t(model_.gradients().all(layer).dtype)}}, [&] {
      if (trained.empty()) trained = model_.trained(layer);
      check(done + g.updates.size() <= trained.size(), "an update is of all that is trained of a layer");
      for (size_t u = 0; u < g.updates.size(); ++u) g.updates[u].param = trained[done + u].value, g.updates[u].grad = trained[done + u].gradient;
      optim::update(rank_.stream, id_, placed(g, static_cast<std::byte*>(bytes.data)), scalars, hyper);
      return 0;
    });
    done += g.updates.size();
    if (ring_) ring_->release(i, g.home);
  }
  check(trained.empty() || done == trained.size(), "an update is of all that is trained of a layer");
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
