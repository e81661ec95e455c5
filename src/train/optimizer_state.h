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
  OptimizerState(comm::Rank&, const std::vector<nn::Model::Trained>&, optim::OptimizerId, bool paged, Rates);

  void reset();  // as before the first step
  // One update of everything that is trained. `scalars`: see optim/optimizer.h.
  void update(Tensor scalars, const optim::Hyper&);

  // Every state of every parameter at home, packed as it is: what a checkpoint holds. It may be overwritten, if changed() follows.
  struct State { std::string name; Tensor home; };
  std::vector<State> states() const;
  bool paged() const { return ring_ != nullptr; }  // home is pinned memory, which the host may touch
  void changed();

 private:
  // Consecutive parameters whose states travel together: those of one layer.
  struct Group {
    std::vector<std::string> names;      // of the parameters
    std::vector<optim::Update> updates;  // states relative to the group's bytes
    std::vector<std::array<int64_t, 4>> offsets;
    int64_t bytes = 0;
    Tensor home;
  };
  std::span<const optim::Update> placed(Group&, std::byte* base);

  comm::Rank& rank_;
  optim::OptimizerId id_;
  std::vector<Group> groups_;
  std::unique_ptr<Ring> ring_;
};

}  // namespace thimble::train
