// Lines go out with one write each, so that a reader never sees half of one; what a full disk refused is cut off and tried again.
#include "train/trainer_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/file.h"
#include "base/log.h"

namespace thimble::train {
namespace {

constexpr const char *log_name = "trainer_log.jsonl", *state_name = "trainer_state.json";
constexpr size_t most_waiting = size_t{1} << 20;

double rounded(double x, int digits) {
  const double scale = std::pow(10.0, digits);
  return std::round(x * scale) / scale;
}

double percentage(int64_t step, int64_t total) { return total > 0 ? rounded(100.0 * double(step) / double(total), 2) : 100.0; }

double per_second(double count, double seconds) { return seconds > 0 ? rounded(count / seconds, 3) : 0.0; }

}  // namespace

std::string clock_text(double seconds) {
  const auto s = std::isfinite(seconds) && seconds > 0 ? int64_t(seconds) : 0;
  const int64_t days = s / 86400;
  const auto clock = fmt::format("{}:{:02}:{:02}", s / 3600 % 24, s / 60 % 60, s % 60);
  return days ? fmt::format("{} day{}, {}", days, days == 1 ? "" : "s", clock) : clock;
}

double seconds_left(double seconds, int64_t step, int64_t total) { return step > 0 && total > step ? seconds / double(step) * double(total - step) : 0.0; }

TrainerLog::TrainerLog(std::filesystem::path folder, const std::filesystem::path& checkpoint) : folder_(std::move(folder)) {
  const auto path = folder_ / log_name;
  if (!checkpoint.empty()) go_on_from(checkpoint);
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | (checkpoint.empty() ? O_TRUNC : 0) | O_CLOEXEC, 0644);
  if (fd_ < 0) warn(log_name, std::strerror(errno));
}

void TrainerLog::go_on_from(const std::filesystem::path& checkpoint) {
  written_ = copy_atomically(checkpoint / log_name, folder_ / log_name).bytes;
  const std::string where = (checkpoint / state_name).string();
  Json state = parse_json(read_text(where), where, 64, int64_t{1} << 30);  // of a long run: many small parts, and our own
  if (!state.is_object() || !state["log_history"].is_array()) fail_field(where, "log_history", "an array", nullptr);
  history_ = std::move(state["log_history"]);
  for (const Json& entry : history_) {
    const auto step = require<int64_t>(entry, "step", where);
    if (entry.contains("eval_loss")) {
      eval_losses_.emplace_back(step, value_or<double>(entry, "eval_loss", NAN, where));
      last_eval_ = entry;
      last_eval_.erase("step");
    } else {
      losses_.emplace_back(step, value_or<double>(entry, "loss", NAN, where));
    }
  }
}

TrainerLog::~TrainerLog() {
  if (fd_ >= 0) ::close(fd_);
}

void TrainerLog::warn(std::string_view file, std::string_view why) {
  if (!warned_) log_warning("cannot write {} ({}); training goes on", (folder_ / file).string(), why);
  warned_ = true;
}

void TrainerLog::append(const Json& line) {
  if (fd_ < 0) return;
  waiting_ += line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const ssize_t n = ::pwrite(fd_, waiting_.data(), waiting_.size(), off_t(written_));
  if (n == ssize_t(waiting_.size())) {
    written_ += n;
    waiting_.clear();
    warned_ = false;
    return;
  }
  warn(log_name, n < 0 ? std::strerror(errno) : "the disk is full");
  if (::ftruncate(fd_, off_t(written_)) != 0 || waiting_.size() > most_waiting) waiting_.clear();
}

void TrainerLog::step(const StepReport& r) {
  losses_.emplace_back(r.step, r.loss);
  history_.push_back({{"loss", r.loss}, {"grad_norm", r.grad_norm}, {"learning_rate", r.learning_rate}, {"epoch", rounded(r.epoch, 4)}, {"step", r.step}});
  append({{"current_steps", r.step},
          {"total_steps", r.total_steps},
          {"loss", r.loss},
          {"lr", r.learning_rate},
          {"grad_norm", r.grad_norm},
          {"epoch", rounded(r.epoch, 4)},
          {"percentage", percentage(r.step, r.total_steps)},
          {"elapsed_time", clock_text(r.seconds)},
          {"remaining_time", clock_text(seconds_left(r.seconds, r.step, r.total_steps))},
          {"throughput", r.seconds > 0 ? rounded(double(r.tokens) / r.seconds, 2) : 0.0},
          {"total_tokens", r.tokens}});
}

void TrainerLog::evaluated(const EvalReport& r) {
  eval_losses_.emplace_back(r.step, r.loss);
  last_eval_ = {{"epoch", rounded(r.epoch, 4)}, {"eval_loss", r.loss}, {"eval_runtime", rounded(r.eval_seconds, 4)},
                {"eval_samples_per_second", per_second(double(r.rows), r.eval_seconds)}};
  Json entry = last_eval_;
  entry["step"] = r.step;
  history_.push_back(std::move(entry));
  append({{"current_steps", r.step},
          {"total_steps", r.total_steps},
          {"eval_loss", r.loss},
          {"epoch", rounded(r.epoch, 4)},
          {"percentage", percentage(r.step, r.total_steps)},
          {"elapsed_time", clock_text(r.seconds)},
          {"remaining_time", clock_text(seconds_left(r.seconds, r.step, r.total_steps))}});
}

void TrainerLog::write(const char* name, const Json& value) {
  try {
    write_atomically(folder_ / name, value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } catch (const Error& e) {
    warned_ = false;  // another file, another warning
    warn(name, e.problem().found.empty() ? e.problem().what : e.problem().found);
  }
}

Json TrainerLog::state(const RunReport& r) const {
  return {{"best_global_step", r.best_step ? Json(r.best_step) : Json(nullptr)},
          {"best_metric", r.best_metric ? Json(*r.best_metric) : Json(nullptr)},
          {"best_model_checkpoint", r.best_checkpoint.empty() ? Json(nullptr) : Json(r.best_checkpoint)},
          {"epoch", rounded(r.epoch, 4)},
          {"eval_steps", r.eval_steps},
          {"global_step", r.steps},
          {"is_hyper_param_search", false},
          {"is_local_process_zero", true},
          {"is_world_process_zero", true},
          {"log_history", history_},
          {"logging_steps", r.logging_steps},
          {"max_steps", r.total_steps},
          {"num_input_tokens_seen", r.tokens},
          {"num_train_epochs", int64_t(std::ceil(r.num_train_epochs))},
          {"save_steps", r.save_steps},
          {"stateful_callbacks", Json::object()},
          {"total_flos", r.flops},
          {"train_batch_size", r.batch_size},
          {"trial_name", nullptr},
          {"trial_params", nullptr}};
}

std::vector<WrittenFile> TrainerLog::write_into(const std::filesystem::path& checkpoint, const RunReport& r) const {
  AtomicFile lines(checkpoint / log_name);
  std::string piece(size_t{1} << 16, '\0');
  for (int64_t at = 0; at < written_;) {
    const ssize_t n = ::pread(fd_, piece.data(), size_t(std::min<int64_t>(written_ - at, int64_t(piece.size()))), off_t(at));
    if (n <= 0)
      throw Error(Fault::bad_input, {.what = "cannot read a log", .where = (folder_ / log_name).string(),
                                     .found = n < 0 ? std::strerror(errno) : "it became shorter"});
    lines.write(piece.data(), n);
    at += n;
  }
  lines.write(waiting_.data(), int64_t(waiting_.size()));
  return {lines.commit(), write_atomically(checkpoint / state_name, state(r).dump(2, ' ', false, Json::error_handler_t::replace) + "\n")};
}

void TrainerLog::finish(const RunReport& r) {
  write(state_name, state(r));
  const Json results = {{"epoch", rounded(r.epoch, 4)},
                        {"num_input_tokens_seen", r.tokens},
                        {"total_flos", r.flops},
                        {"train_loss", r.loss},
                        {"train_runtime", rounded(r.seconds, 4)},
                        {"train_samples_per_second", per_second(double(r.rows), r.seconds)},
                        {"train_steps_per_second", per_second(double(r.steps), r.seconds)}};
  write("train_results.json", results);
  Json all = results;
  if (!last_eval_.is_null()) {
    write("eval_results.json", last_eval_);
    all.update(last_eval_);
  }
  write("all_results.json", all);
}

}  // namespace thimble::train
