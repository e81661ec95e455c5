// plan and train: the same plan, printed or run.
#include <cstdio>

#include "base/file.h"
#include "base/log.h"
#include "base/threads.h"
#include "cli/commands.h"
#include "cli/training_run.h"
#include "data/dataset.h"
#include "store/adapter_files.h"
#include "train/fingerprint.h"

namespace thimble::cli {
namespace {

std::vector<fs::path> paths(const train::TrainOptions& o, const std::vector<std::string>& entries) {
  std::vector<fs::path> files;
  for (const auto& e : entries) files.push_back(train::find_dataset(o, e));
  return files;
}

RunData read_data(const train::TrainOptions& o, const data::Tokenizer& tokenizer, int64_t rows, int64_t vocab) {
  if (tokenizer.vocab_size() > vocab)
    throw Error(Fault::bad_input, {.what = "the tokenizer has more tokens than the model has rows", .where = o.model_name_or_path,
                                   .expected = fmt::format("at most {}", vocab), .found = std::to_string(tokenizer.vocab_size())});
  const data::Chat chat(tokenizer);
  const bool packing = o.packing.value_or(false) || o.neat_packing;
  const bool joined = o.stage == train::Stage::pt && packing && !o.neat_packing;  // texts run on into each other, as LLaMA-Factory packs for pt
  const data::DatasetOptions how{.stage = o.stage == train::Stage::pt ? data::Stage::pretrain : data::Stage::sft, .cutoff_len = o.cutoff_len, .packing = joined,
                                 .train_on_prompt = o.train_on_prompt, .max_samples = o.max_samples.value_or(-1)};
  auto set = data::read_dataset(paths(o, o.dataset), tokenizer, chat, how);
  const auto& r = set.report;
  log_info("data: {} rows of {}, {} examples, {} tokens ({} learned), {} truncated to {}", r.rows, r.form, r.examples, r.tokens, r.trained_tokens, r.truncated,
           o.cutoff_len);
  for (const auto& [reason, count] : r.dropped) log_warning("{} rows dropped: {} (the first: {})", count, reason, r.first_dropped);
  auto [training, evaluation] = o.val_size > 0 ? data::split(set.examples, o.val_size, uint64_t(o.seed)) : std::pair(std::move(set.examples), data::Examples{});
  if (!o.eval_dataset.empty()) evaluation = data::read_dataset(paths(o, o.eval_dataset), tokenizer, chat, how).examples;
  data::BatchOptions batches{.rows = rows, .cutoff = o.cutoff_len, .packing = packing && !joined, .shuffle = !o.disable_shuffling, .seed = uint64_t(o.seed)};
  auto quiet = batches;
  quiet.shuffle = false;
  return {{std::move(training), batches}, {std::move(evaluation), quiet}};
}

int run_training(const train::TrainOptions& o) {
  train::require_for_run(o);
  if (o.gpu) throw Error(Fault::usage, {.what = "`gpu` names a card to plan for, and a run is on this machine", .found = *o.gpu, .fix = "leave out gpu; vram and ram cap what a run takes"});
  const auto from = train::find_checkpoint(o);
  // Resumed, with the micro-batch that it began with where that still fits: the same sums in the same order.
  Planned planned = make_plan(o, from ? std::optional(from->recipe.micro_batch) : std::nullopt);
  if (from && !planned.choice.best) planned = make_plan(o);
  if (!planned.choice.best) refuse(o, planned);
  const auto& [plan, outcome] = *planned.choice.best;
  std::fputs(plan::report(*planned.choice.best, planned.budget, planned.spec, planned.process_bytes).c_str(), stdout);
  std::fflush(stdout);
  train::prepare_output_dir(o);

  const auto tokenizer = data::Tokenizer::open(o.model_name_or_path);
  const RunData data = read_data(o, *tokenizer, plan.micro_batch, planned.setup.model.vocab);
  const train::Recipe recipe{.options = to_json(o), .model = train::fingerprint_of_model(train::base_folder(o)),
                             .data = train::fingerprint(data.training.examples()), .micro_batch = plan.micro_batch,
                             .machine = fmt::format("{}, {} threads", planned.spec.name, thread_count())};
  if (from) require_same_run(*from, recipe, course_of(o, plan, data.training).total);
  // Every option with the value it has, defaults too: a recipe that repeats this run from its beginning.
  auto repeated = o;
  repeated.resume_from_checkpoint = {};
  write_atomically(fs::path(o.output_dir) / "args.json", to_json(repeated).dump(2) + "\n");

  const auto device = open_device(planned.spec);
  comm::Rank rank(*device, {outcome.peak[size_t(Tier::device)], outcome.peak[size_t(Tier::pinned)], outcome.peak[size_t(Tier::host)]});
  train::Trainer trainer(rank, planned.setup, plan);
  const auto source = store::open_weights(o.model_name_or_path);
  source->check_table(trainer.model().weights().table());
  trainer.load(source.get());
  if (from) {
    train::restore(trainer, planned.setup, *from);
  } else if (o.adapter_name_or_path) {
    const store::AdapterFile file(*o.adapter_name_or_path, trainer.model().adapters()->specs());
    trainer.load_adapters([&](const store::ParamSpec& p, Tensor to) { file.read(p, to); });
  }
  rank.ledger.record(false);
  return TrainingRun(o, planned, data, rank, trainer, recipe, from).run();
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  auto* c = app.add_subcommand("train", "tune a model inside its plan: [RECIPE] [key=value | --key value]...\nRECIPE: a YAML file with LLaMA-Factory's keys, which what follows overrides");
  c->allow_extras();
  c->callback([=, &run] {
    run = [=] {
      const auto [file, overrides] = recipe_and_overrides(c->remaining());
      return run_training(train::read_train_options(file, overrides));
    };
  });
}

}  // namespace thimble::cli
