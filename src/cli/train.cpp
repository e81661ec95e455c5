// plan and train: the same plan, printed or run.
#include <cstdio>

#include "base/file.h"
#include "base/log.h"
#include "base/threads.h"
#include "cli/commands.h"
#include "cli/run_data.h"
#include "cli/training_run.h"
#include "store/adapter_files.h"
#include "train/fingerprint.h"

namespace thimble::cli {
namespace {

int run_training(const train::TrainOptions& o) {
  train::require_for_run(o);
  if (o.gpu) throw Error(Fault::usage, {.what = "`gpu` names a card to plan for, and a run is on this machine", .found = *o.gpu, .fix = "leave out gpu; vram and ram cap what a run takes"});
  const auto from = train::find_checkpoint(o);
  // Resumed, with the micro-batch and the chunks that it began with where these still fit: the same sums in the same order.
  Planned planned = make_plan(o, from ? std::optional(from->recipe.order) : std::nullopt);
  if (from && !planned.choice.best) planned = make_plan(o);
  if (!planned.choice.best) refuse(o, planned);
  const auto& [plan, outcome] = *planned.choice.best;
  std::fputs(plan::report(*planned.choice.best, planned.budget, planned.spec, planned.process_bytes).c_str(), stdout);
  std::fflush(stdout);
  train::prepare_output_dir(o);

  const auto tokenizer = data::Tokenizer::open(o.model_name_or_path);
  const RunData data = read_run_data(o, *tokenizer, plan.micro_batch);
  const train::Recipe recipe{.options = to_json(o), .model = train::fingerprint_of_model(train::base_folder(o)),
                             .data = train::fingerprint(data.training.examples()), .order = plan.order(),
                             .machine = fmt::format("{}, {} threads", planned.spec.name, thread_count())};
  if (from) require_same_run(*from, recipe, course_of(o, plan, data.training).total);
  // Every option with the value it has, defaults too: a recipe that repeats this run from its beginning.
  auto repeated = o;
  repeated.resume_from_checkpoint = {};
  write_atomically(fs::path(o.output_dir) / "args.json", to_json(repeated).dump(2) + "\n");

  const auto device = open_device(planned.spec);
  comm::Rank rank(*device, {outcome.peak[size_t(Tier::device)], outcome.peak[size_t(Tier::pinned)], outcome.peak[size_t(Tier::host)], outcome.disk()});
  train::Trainer trainer(rank, planned.setup, plan);
  const auto base = store::open_weights(o.model_name_or_path);
  const auto& table = trainer.model().weights().table();
  std::optional<store::AdapterFile> adapter;
  if (o.adapter_name_or_path && !from)
    adapter.emplace(*o.adapter_name_or_path, store::tensors_of_adapter(trainer.model().adapters(), table, planned.setup.adapter.modules_to_save));
  const auto source = store::adapted_weights(*base, adapter ? &*adapter : nullptr);
  source->check_table(table);
  trainer.load(source.get());
  if (from) train::restore(trainer, planned.setup, *from);
  else if (adapter) trainer.load_adapters([&](const store::ParamSpec& p, Tensor to) { adapter->read(p, to); });
  rank.ledger.record(false);
  return TrainingRun(o, planned, data, rank, trainer, recipe, from).run();
}

}  // namespace

void takes_recipe(CLI::App& command, Run& run, int (*what)(const train::TrainOptions&)) {
  command.allow_extras();
  command.callback([=, &run, c = &command] {
    run = [=] {
      const auto [file, overrides] = recipe_and_overrides(c->remaining());
      return what(train::read_train_options(file, overrides));
    };
  });
}

void add_train(CLI::App& app, Run& run) {
  takes_recipe(*app.add_subcommand("train", "tune a model inside its plan: [RECIPE] [key=value | --key value]...\nRECIPE: a YAML file with LLaMA-Factory's keys, which what follows overrides"), run, run_training);
}

}  // namespace thimble::cli
