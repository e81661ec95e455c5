// A run from its first step, or the one after a checkpoint, to its last: steps, evaluations, checkpoints, the log, the result.
#pragma once
#include <chrono>

#include "cli/run_data.h"
#include "cli/run_plan.h"
#include "train/checkpoint.h"
#include "train/event_file.h"
#include "train/progress.h"

namespace thimble::cli {

// How many there are of what: micro-batches and optimizer steps of an epoch, steps of the run.
struct Course {
  int64_t micro_batches = 0, per_epoch = 0, total = 0;
};
Course course_of(const train::TrainOptions&, const plan::Plan&, const data::Batches& training);

class TrainingRun {
 public:
  // The trainer holds the run as it was at `from`, or as it begins. All is kept by reference, but the recipe.
  TrainingRun(const train::TrainOptions&, const Planned&, const RunData&, comm::Rank&, train::Trainer&, train::Recipe,
              const std::optional<train::Checkpoint>& from);
  // To the end: 0. Stopped by a signal, and saved: 75.
  int run();

 private:
  using Clock = std::chrono::steady_clock;
  double seconds() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }  // of all parts of the run
  void warn_of_disk() const;
  void step();
  void log_step();
  bool evaluation_due() const;
  double evaluate();
  bool is_best(std::optional<double> loss) const;
  bool save_due(std::optional<double> loss) const;
  void save(std::optional<double> loss);
  int stopped();
  void finish();
  void write_result();
  train::RunReport so_far() const;
  std::string best_folder() const { return state_.best_step ? checkpoints_.folder_of(state_.best_step).string() : ""; }

  const train::TrainOptions& options_;
  const Planned& planned_;
  const plan::Plan& plan_;
  const RunData& data_;
  comm::Rank& rank_;
  train::Trainer& trainer_;
  const train::Recipe recipe_;
  std::vector<data::MicroBatch> evaluation_;
  const Course course_;
  const int64_t save_interval_;
  const train::Schedule schedule_;
  train::Checkpoints checkpoints_;
  train::TrainerLog log_;
  std::optional<train::EventFile> events_;
  train::Progress progress_;
  train::RunState state_;
  train::StepReport report_;
  Clock::time_point begin_;
};

}  // namespace thimble::cli
