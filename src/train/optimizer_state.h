// Where the optimizer's memory lies: on the device, or "paged": at home in pinned memory, visiting group by group through a Ring.
// Both ways give the same bits, since each parameter's update depends on nothing but itself.
#pragma once
#include <memory>

#include "comm/rank.h"
#include "device/ring.h"
#include "nn/model.h"
#include "optim/optimizer.h"

namespace thimble::train {

class OptimizerState {
 public:
  struct Rates { float decay = 0, decay_of_norms = 0, lora_b = 1; };  // lora_b: of the B of adapters, times the learning rate (LoRA+)
  OptimizerState(comm::Rank&, const nn::Model&, optim::OptimizerId, bool paged, Rates);

  void reset();  // as before the first step
  // One update of what is trained of a layer (-1: outside all layers), which is acquired, its gradients open. `scalars`: see optim/optimizer.h. The states
  // of layer `next` set out (-1: none).
  void update(int layer, Tensor scalars, const optim::Hyper&, int next);
  void drain();  // what is on its way home has come

  // Every state of every parameter at home, packed as it is: what a checkpoint holds. It may be overwritten, if changed() follows.
  struct State {
    const store::ParamSpec* of;
    std::string_view suffix;
    Tensor home;
    std::string name() const;
  };
  std::vector<State> states() const;
  bool paged() const { return ring_ != nullptr; }  // home is pinned memory, which the host may touch
  void changed();

 private:
  // Consecutive parameters whose states travel together: those of one layer; outside all layers, where a tensor may be larger than a layer, one.
  struct Group {
    int layer = 0;
    int alike = 0;  // the first group of its parameters' shapes and rates
    std::vector<const store::ParamSpec*> specs;
    std::vector<optim::Update> updates;  // states relative to the group's bytes
    std::vector<std::array<int64_t, 4>> offsets;
    int64_t bytes = 0;
    Tensor home;
  };
  std::span<const optim::Update> placed(Group&, std::byte* base);
  int index_of(int layer) const;  // -1: it has none

  comm::Rank& rank_;
  const nn::Model& model_;
  optim::OptimizerId id_;
  std::vector<Group> groups_;
  std::unique_ptr<Ring> ring_;
};

}  // namespace thimble::train
