// Where the gradients lie: f32, each layer's as one. On the device, or, of layers whose trained weights are streamed, in a slot for the layer's turn
// and between its turns in pinned memory. The caller sees open(layer) and close(layer) and cannot tell which.
#pragma once
#include <functional>
#include <memory>

#include "device/ring.h"
#include "store/flat_store.h"

namespace thimble::store {

class GradientStore {
 public:
  // `trained`: layer after layer, -1 (outside all layers) first; they outlive this. Without `homes` a streamed layer's gradients do not outlive its turn.
  GradientStore(comm::Rank&, const std::vector<const ParamSpec*>& trained, const std::function<bool(int layer)>& streamed, bool homes);

  // All that are on the device, as one.
  const Tensor& resident() const { return resident_.all(); }
  bool has(int layer) const { return layer + 1 < int(groups_.size()) && of(layer).layout.size() > 0; }
  // Does it come for its turn alone? No layer without gradients does.
  bool streamed(int layer) const { return has(layer) && of(layer).streamed; }
  // A layer's are there, to be added to. `first` of a step: those of a streamed layer begin as zeros, else as they were closed, and those of `next` set
  // out (-1: none).
  void open(int layer, bool first, int next);
  void close(int layer, bool keep);  // kept: they wait for the next turn
  // Of a layer that is open or resident: its i-th, and all as one.
  Tensor at(int layer, size_t i) const { return of(layer).layout.at(of(layer).now.data, i); }
  Tensor all(int layer) const { return of(layer).now; }
  bool is_open(int layer) const { return has(layer) && of(layer).now; }

 private:
  struct Group { FlatLayout layout; bool streamed = false; Tensor now = {}, home = {}; };

  comm::Rank& rank_;
  FlatStore resident_;
  Group& of(int layer) { return groups_[size_t(layer + 1)]; }
  const Group& of(int layer) const { return groups_[size_t(layer + 1)]; }
  std::vector<Group> groups_;  // by layer, from -1 on
  std::unique_ptr<Ring> ring_;
};

}  // namespace thimble::store
