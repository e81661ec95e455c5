// Where the gradients lie: f32 while they add up, each layer's as one. On the device, or, of layers whose trained weights are streamed, on it for the layer's
// turn and between its turns in pinned memory. The caller sees open(layer) and close(layer) and cannot tell which.
// Those of bf16 weights are taken as the nearest bf16 once they are whole (optim/optimizer.h), so they wait for the norm of all in bf16: of 8B parameters
// 16 GB, not 32, beside as many of weights and of 8-bit states. Sums that are not whole yet wait in f32, or windows would change numbers.
#pragma once
#include <functional>
#include <memory>

#include "device/ring.h"
#include "store/flat_store.h"

namespace thimble::store {

// What a streamed layer's gradients wait for when its turn is over: nothing, they are used up; their update; the next window of the step, and their update.
enum class Waits : uint8_t { never, whole, as_sums };

class GradientStore {
 public:
  // `trained`: layer after layer, -1 (outside all layers) first; they outlive this.
  GradientStore(comm::Rank&, const std::vector<const ParamSpec*>& trained, const std::function<bool(int layer)>& streamed, Waits);

  // All that are on the device, as one.
  const Tensor& resident() const { return resident_.all(); }
  bool has(int layer) const { return layer + 1 < int(groups_.size()) && of(layer).layout.size() > 0; }
  // Does it come for its turn alone? No layer without gradients does.
  bool streamed(int layer) const { return has(layer) && of(layer).streamed; }
  // A layer's are there. `first` of a step: those of a streamed layer begin as zeros, else as they were closed, and those of `next` set out (-1: none).
  // They are to be added to, but those that are back in bf16, which are to be read.
  void open(int layer, bool first, int next);
  void close(int layer, bool keep);  // kept: they wait for the next turn
  // Of a layer that is open or resident: its i-th, and all as one.
  Tensor at(int layer, size_t i) const { return of(layer).layout.at(of(layer).now.data, i, of(layer).now.dtype); }
  Tensor all(int layer) const { return of(layer).now; }
  bool is_open(int layer) const { return has(layer) && of(layer).now; }

 private:
  struct Group {
    FlatLayout layout;
    bool streamed = false;
    Tensor now = {}, home = {};
    bool rounded() const { return home && home.dtype != DType::f32; }  // before they leave
  };

  comm::Rank& rank_;
  FlatStore resident_;
  Group& of(int layer) { return groups_[size_t(layer + 1)]; }
  const Group& of(int layer) const { return groups_[size_t(layer + 1)]; }
  std::vector<Group> groups_;  // by layer, from -1 on
  std::unique_ptr<Ring> ring_;
  Tensor sums_;  // of the layer whose turn it is, where they are rounded before they leave
};

}  // namespace thimble::store
