// At the end of a step the order is fixed: log, evaluate, save. So a checkpoint holds every line up to its step, and a resumed run repeats
// none.
#include "cli/training_run.h"

#include <cmath>
#include <cstdio>

#include "base/log.h"
#include "cli/stop_request.h"
#include "train/loss_plot.h"

namespace thimble::cli {
namespace {

std::vector<data::MicroBatch> all_of(const data::Batches& b) {
  std::vector<data::MicroBatch> all;
  if (b.examples().size() == 0) return all;
  for (int64_t i = 0; i < b.micro_batches_per_epoch(); ++i) all.push_back(b.at(0, i));
  return all;
}

}  // namespace

Course course_of(const train::TrainOptions& o, const plan::Plan& plan, const data::Batches& training) {
  const int64_t micro_batches = training.micro_batches_per_epoch(), per_epoch = (micro_batches + plan.accumulation - 1) / plan.accumulation;
  return {micro_batches, per_epoch,
          o.max_steps > 0 ? o.max_steps : std::max<int64_t>(1, int64_t(std::ceil(o.num_train_epochs * double(per_epoch))))};
}

TrainingRun::TrainingRun(const train::TrainOptions& options, const Planned& planned, const RunData& data, comm::Rank& rank,
                         train::Trainer& trainer, train::Recipe recipe, const std::optional<train::Checkpoint>& from)
    : options_(options),
      planned_(planned),
      plan_(planned.choice.best->plan),
      data_(data),
      rank_(rank),
      trainer_(trainer),
      recipe_(std::move(recipe)),
      evaluation_(all_of(data.evaluation)),
      course_(course_of(options, plan_, data.training)),
      save_interval_(train::save_interval(options, course_.total)),
      schedule_(options.schedule(course_.total)),
      checkpoints_(options, planned.setup),
      log_(options.output_dir, from ? from->folder : fs::path()),
      progress_({.logging_steps = options.logging_steps, .first_step = options.logging_first_step}) {
  if (from) state_ = from->state;
  report_ = {
      .step = state_.step, .total_steps = course_.total, .epoch = double(state_.step) / double(course_.per_epoch), .tokens = state_.tokens};
  begin_ = Clock::now() - std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(state_.seconds));
  if (options.reports_to("tensorboard")) events_.emplace(*options.logging_dir, from ? state_.step + 1 : 0);
  if (from && state_.step == course_.total)
    log_info(
        "{} is the end of the run: nothing is left to train, and the result is written again; raise max_steps or num_train_epochs to go on",
        from->folder.string());
  else if (from) log_info("going on from {}: step {} of {}", from->folder.string(), state_.step, course_.total);
}

int TrainingRun::run() {
  const StopRequest stop;
  warn_of_disk();
  while (state_.step < course_.total) {
    step();
    const auto loss = evaluation_due() ? std::optional(evaluate()) : std::nullopt;
    const bool stopping = stop.asked() && state_.step < course_.total;
    if (stopping || save_due(loss)) save(loss);
    if (stopping) return stopped();
  }
  finish();
  return 0;
}

void TrainingRun::warn_of_disk() const {
  const bool often = options_.save_strategy == train::SaveWhen::steps || options_.save_strategy == train::SaveWhen::epoch;
  if (!often || state_.step == course_.total) return;
  int64_t kept =
      (course_.total - state_.step) / (options_.save_strategy == train::SaveWhen::steps ? save_interval_ : course_.per_epoch) + 1;
  if (options_.save_total_limit) kept = std::min(kept, *options_.save_total_limit + 1);  // an old one goes after a new one is there
  const int64_t one = train::Checkpoints::bytes_of(trainer_, planned_.setup), free = free_disk_bytes(options_.output_dir);
  if (double(one) * double(kept) > double(free))
    log_warning("the disk will not hold the run's checkpoints: {} of {} each, and {} are free; save_total_limit keeps fewer", kept,
                human_bytes(one), human_bytes(free));
}

void TrainingRun::step() {
  const int64_t step = state_.step, epoch = step / course_.per_epoch, first = step % course_.per_epoch * plan_.accumulation;
  std::vector<data::MicroBatch> window;
  for (int64_t i = first; i < std::min(first + plan_.accumulation, course_.micro_batches); ++i)
    window.push_back(data_.training.at(epoch, i));
  const double rate = train::learning_rate(schedule_, step), started = seconds();
  const auto r = trainer_.step(window, rate);
  const auto& scale = trainer_.loss_scale();
  if (!r.finite() && (!trainer_.scales_loss() || scale.exhausted()))
    throw Error(Fault::internal, {.what = "the loss or the gradient is not a number; the update was not made, the run ends here",
                                  .where = fmt::format("step {}", step + 1),
                                  .found = fmt::format("loss {}, gradient norm {}", r.loss, r.grad_norm),
                                  .fix = step == 0 ? "thimble inspect MODEL --check-tensors says whether the weights are damaged; if not, lower learning_rate" : "lower learning_rate"});
  if (!r.finite()) log_info("step {} is left out: too large for f16 with a loss scale of {:.0f}, which is {:.0f} now", step + 1, 2 * scale.scale, scale.scale);
  state_ = {.step = step + 1,
            .tokens = state_.tokens + r.tokens,
            .loss_sum = state_.loss_sum + (std::isfinite(r.loss) ? r.loss : report_.loss),
            .seconds = seconds(),
            .best_loss = state_.best_loss,
            .best_step = state_.best_step,
            .loss_scale = scale};
  double& lately = report_.tokens_per_second;
  const double now = double(r.tokens) / (state_.seconds - started);
  lately = lately == 0 ? now : 0.9 * lately + 0.1 * now;
  report_.step = state_.step;
  report_.epoch = double(state_.step) / double(course_.per_epoch);
  if (std::isfinite(r.loss)) report_.loss = r.loss;
  if (r.finite()) report_.grad_norm = r.grad_norm;
  report_.learning_rate = rate;
  report_.seconds = state_.seconds;
  report_.tokens = state_.tokens;
  if (state_.step % options_.logging_steps == 0 || (state_.step == 1 && options_.logging_first_step) || state_.step == course_.total)
    log_step();
  std::vector<train::TierUse> uses;
  for (const Tier t : {Tier::device, Tier::pinned})
    uses.push_back({t, rank_.ledger.peak(t), planned_.choice.best->outcome.peak[size_t(t)]});
  progress_.show(report_, uses);
}

void TrainingRun::log_step() {
  log_.step(report_);
  if (!events_) return;
  const train::EventFile::Scalar scalars[] = {{"train/loss", report_.loss}, {"train/grad_norm", report_.grad_norm}, {"train/learning_rate", report_.learning_rate},
                                              {"train/epoch", report_.epoch}, {"train/tokens_per_second", report_.tokens_per_second}};
  events_->write(report_.step, scalars);
}

bool TrainingRun::evaluation_due() const {
  if (evaluation_.empty() || options_.eval_strategy == train::When::no) return false;
  const int64_t every =
      options_.eval_strategy == train::When::steps ? options_.eval_steps.value_or(options_.logging_steps) : course_.per_epoch;
  return state_.step % every == 0 || state_.step == course_.total;
}

double TrainingRun::evaluate() {
  const double started = seconds();
  const auto r = trainer_.evaluate(evaluation_);
  progress_.clear();
  log_.evaluated({.step = state_.step,
                  .total_steps = course_.total,
                  .epoch = report_.epoch,
                  .loss = r.loss,
                  .seconds = seconds(),
                  .eval_seconds = seconds() - started,
                  .rows = data_.evaluation.examples().size()});
  if (events_) {
    const train::EventFile::Scalar scalars[] = {{"eval/loss", r.loss}, {"eval/accuracy", double(r.correct) / double(std::max<int64_t>(1, r.targets))}};
    events_->write(state_.step, scalars);
  }
  log_info("eval at step {}: loss {:.4f}, {:.1f}% of the tokens right", state_.step, r.loss,
           100.0 * double(r.correct) / double(std::max<int64_t>(1, r.targets)));
  return r.loss;
}

bool TrainingRun::is_best(std::optional<double> loss) const {
  return loss && std::isfinite(*loss) && (!state_.best_loss || *loss < *state_.best_loss);
}

bool TrainingRun::save_due(std::optional<double> loss) const {
  switch (options_.save_strategy) {
    case train::SaveWhen::steps:
      return state_.step % save_interval_ == 0 || state_.step == course_.total;
    case train::SaveWhen::epoch:
      return state_.step % course_.per_epoch == 0 || state_.step == course_.total;
    case train::SaveWhen::best:
      return is_best(loss);
    case train::SaveWhen::no:
      break;
  }
  return false;
}

void TrainingRun::save(std::optional<double> loss) {
  const auto before = state_;
  if (is_best(loss)) state_.best_loss = loss, state_.best_step = state_.step;
  state_.seconds = seconds();
  progress_.clear();
  if (!checkpoints_.save(trainer_, state_, recipe_, log_, so_far())) state_ = before;
}

int TrainingRun::stopped() {
  progress_.finish();
  if (checkpoints_.any())
    log_info("stopped after step {} of {}; to go on: thimble train {} resume_from_checkpoint=true", state_.step, course_.total,
             (fs::path(options_.output_dir) / "args.json").string());
  else log_warning("stopped after step {} of {}, and no checkpoint could be saved", state_.step, course_.total);
  return int(Fault::interrupted);
}

train::RunReport TrainingRun::so_far() const {
  return {.steps = state_.step,
          .total_steps = course_.total,
          .rows = data_.training.examples().size(),
          .tokens = state_.tokens,
          .batch_size = options_.per_device_train_batch_size,
          .epoch = report_.epoch,
          .num_train_epochs = options_.num_train_epochs,
          .loss = state_.loss_sum / double(std::max<int64_t>(1, state_.step)),
          .seconds = seconds(),
          .logging_steps = options_.logging_steps,
          .eval_steps = options_.eval_steps.value_or(options_.logging_steps),
          .save_steps = save_interval_,
          .best_metric = state_.best_loss,
          .best_step = state_.best_step,
          .best_checkpoint = best_folder()};
}

// The best checkpoint's files where that is asked for: they are what writing its weights again would give.
void TrainingRun::write_result() {
  if (options_.load_best_model_at_end && state_.best_step) {
    const fs::path best = best_folder();
    const auto damage = store::damage_of(best);
    if (damage.empty()) {
      const auto manifest = store::read_manifest(best);
      for (const WrittenFile& f : manifest->files) {
        const bool is_state = f.name == train::state_file || f.name == train::run_file || f.name.starts_with("trainer_");
        if (!is_state) copy_atomically(best / f.name, fs::path(options_.output_dir) / f.name);
      }
      log_info("the result is {}, with the best loss of an evaluation: {:.4f}", best.string(), *state_.best_loss);
      return;
    }
    log_warning("{} evaluated best and cannot be used ({}): the result is the last step", best.string(), damage);
  }
  train::write_trained(options_.output_dir, options_, planned_.setup, trainer_);
  const nn::ModelSpec& model = planned_.setup.model;
  if (model.stored.format != quant::FormatId::dense && !planned_.setup.method.lora.any())
    log_info("the base's matrices are {}, the result's {}: what was trained is packed no more, and the folder holds one kind. thimble quantize packs it again",
             quant::format(model.stored.format).name, model.dtype);
}

void TrainingRun::finish() {
  progress_.finish();
  write_result();
  const auto report = so_far();
  log_.finish(report);
  if (options_.plot_loss) train::write_loss_plot(fs::path(options_.output_dir) / "training_loss.png", log_.losses());
  std::printf("%lld steps, %lld tokens in %.1f s (%.0f tokens/s; predicted %.0f); mean loss %.4f; results in %s\n",
              static_cast<long long>(course_.total), static_cast<long long>(report.tokens), report.seconds,
              double(report.tokens) / report.seconds, planned_.choice.best->outcome.tokens_per_second(plan_), report.loss,
              options_.output_dir.c_str());
}

}  // namespace thimble::cli
