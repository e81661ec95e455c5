// What a run leaves for people, scripts and dashboards: trainer_log.jsonl with LLaMA-Factory's fields, trainer_state.json and the result
// files with transformers'. A full disk costs a warning, never the run.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/json.h"

namespace thimble::train {

// One optimizer step as it is shown and logged.
struct StepReport {
  int64_t step = 0, total_steps = 0;  // steps done, from 1
  double epoch = 0;
  double loss = 0;
  double learning_rate = 0;  // that the step used
  double grad_norm = 0;      // before clipping
  double seconds = 0;        // since the run began
  int64_t tokens = 0;        // since the run began
  double tokens_per_second = 0;  // lately; what the progress line shows
};

struct EvalReport {
  int64_t step = 0, total_steps = 0;
  double epoch = 0, loss = 0;
  double seconds = 0;       // since the run began
  double eval_seconds = 0;  // of this evaluation
  int64_t rows = 0;
};

struct RunReport {
  int64_t steps = 0, total_steps = 0, rows = 0, tokens = 0, batch_size = 0;
  double epoch = 0, num_train_epochs = 0;
  double loss = 0;  // mean over all steps
  double seconds = 0, flops = 0;
  int64_t logging_steps = 0, eval_steps = 0, save_steps = 0;
  std::optional<double> best_metric;
  int64_t best_step = 0;
  std::string best_checkpoint;
};

class TrainerLog {
 public:
  // Starts a new trainer_log.jsonl in the folder; or goes on with what write_into left in a checkpoint, whatever stands in the folder.
  explicit TrainerLog(std::filesystem::path folder, const std::filesystem::path& checkpoint = {});
  ~TrainerLog();
  TrainerLog(const TrainerLog&) = delete;
  TrainerLog& operator=(const TrainerLog&) = delete;

  void step(const StepReport&);       // one line, on disk when this returns
  void evaluated(const EvalReport&);  // one line
  // trainer_state.json, train_results.json, eval_results.json (after an evaluation), all_results.json.
  void finish(const RunReport&);
  // trainer_log.jsonl and trainer_state.json so far, for a checkpoint. Throws Error (bad_input) where the disk refuses.
  std::vector<WrittenFile> write_into(const std::filesystem::path& checkpoint, const RunReport&) const;

  // (step, loss) of all lines so far.
  const std::vector<std::pair<int64_t, double>>& losses() const { return losses_; }
  const std::vector<std::pair<int64_t, double>>& eval_losses() const { return eval_losses_; }

 private:
  void go_on_from(const std::filesystem::path& checkpoint);
  Json state(const RunReport&) const;
  void append(const Json& line);
  void write(const char* name, const Json&);
  void warn(std::string_view file, std::string_view why);

  std::filesystem::path folder_;
  int fd_ = -1;
  int64_t written_ = 0;   // bytes of whole lines in the file
  std::string waiting_;   // lines that found no room, tried again with the next
  bool warned_ = false;
  Json history_ = Json::array();
  Json last_eval_;
  std::vector<std::pair<int64_t, double>> losses_, eval_losses_;
};

// "0:01:23", "2 days, 3:04:05": as Python writes a timedelta, which readers of the log expect.
std::string clock_text(double seconds);
// Seconds still to go at the mean rate so far; 0 before the first step.
double seconds_left(double seconds, int64_t step, int64_t total_steps);

}  // namespace thimble::train
