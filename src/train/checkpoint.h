// Checkpoints of a run: output_dir/checkpoint-N, each a folder that others load as a model or an adapter, with what resuming needs beside it.
// The order of the data and of new adapters is a function of (seed, step), and nothing else is drawn: a count of steps is both cursor and RNG.
#pragma once
#include <optional>

#include "store/sealed_folder.h"
#include "train/trained_model.h"
#include "train/trainer_log.h"

namespace thimble::train {

// Counters at the end of a step.
struct RunState {
  int64_t step = 0, tokens = 0;
  double loss_sum = 0, seconds = 0;
  std::optional<double> best_loss;  // of an evaluation that has a checkpoint
  int64_t best_step = 0;
  LossScale loss_scale;
};

// What makes a run's numbers.
struct Recipe {
  Json options;              // every option with its value
  std::string model, data;   // fingerprints
  plan::SumOrder order;      // the plan's
  std::string machine;       // the same bits are promised on the same one only
};

struct Checkpoint {
  fs::path folder;
  RunState state;
  Recipe recipe;
};

inline constexpr const char *state_file = "training_state.safetensors", *run_file = "run_state.json";

// The checkpoint that `o` asks to go on from; none where it asks for the newest and there is no checkpoint at all, which is said in a warning.
// One whose files are not as they were written is named in a warning and passed over. Throws Error (bad_input) where there are only such.
std::optional<Checkpoint> find_checkpoint(const TrainOptions& o);
// Throws Error (usage) that names the first option of the two that changes numbers and differs; warns of what may change the last digits.
void require_same_run(const Checkpoint&, const Recipe&, int64_t total_steps);
void restore(Trainer&, const Setup&, const Checkpoint&);

class Checkpoints {
 public:
  // Removes what a killed run left half written.
  Checkpoints(const TrainOptions&, const Setup&);
  // After step state.step. Earlier ones beyond the limit go once it is whole. False, with a warning, where the disk refuses: what was there stays.
  bool save(Trainer&, const RunState&, const Recipe&, const TrainerLog&, const RunReport&);
  static int64_t bytes_of(Trainer&, const Setup&);  // of one
  fs::path folder_of(int64_t step) const;
  bool any() const;  // to go on from

 private:
  void write(store::SealedFolder&, Trainer&, const RunState&, const Recipe&, const TrainerLog&, const RunReport&);
  void remove_old(const RunState&);
  const TrainOptions& options_;
  const Setup& setup_;
};

}  // namespace thimble::train
