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
  const auto base = store::open_weights(o.model_name_or_path);
  const auto& table = trainer.model().weights().table();
  std::optional<store::AdapterFile> adapter;
  if (o.adapter_name_or_path && !from)
    adapter.emplace(*o.adapter_name_or_path, store::tensors_of_adapter(trainer.model().adapters()->specs(), table, planned.setup.adapter.modules_to_save));
  const auto source = store::adapted_weights(*base, adapter ? &*adapter : nullptr);
  source->check_table(table);
  trainer.load(source.get());
  if (from) train::restore(trainer, planned.setup, *from);
  else if (adapter) trainer.load_adapters([&](const store::ParamSpec& p, Tensor to) { adapter->read(p, to); });
  rank.ledger.record(false);
  return TrainingRun(o, planned, data, rank, trainer, recipe, from).run();
}

int run_plan(const train::TrainOptions& o) {
  const Planned planned = make_plan(o);
  if (!planned.choice.best) refuse(o, planned);
  std::printf("%s%d plans tried\n", plan::report(*planned.choice.best, planned.budget, planned.spec, planned.process_bytes).c_str(), planned.choice.tried);
  return 0;
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  struct Given { std::string file; std::vector<std::string> overrides; };
  const auto add = [&](const char* name, const char* help, int (*what)(const train::TrainOptions&)) {
    auto* c = app.add_subcommand(name, help);
    const auto given = std::make_shared<Given>();
    c->add_option("recipe", given->overrides, "a YAML file with LLaMA-Factory's keys, and key=value (or --key value) over it");
    c->allow_extras();
    c->callback([=, &run] {
      run = [=] {
        auto words = given->overrides;
        const auto extras = c->remaining();
        words.insert(words.end(), extras.begin(), extras.end());
        fs::path file;
        if (!words.empty() && words[0].find('=') == std::string::npos && !words[0].starts_with("-")) file = words[0], words.erase(words.begin());
        return what(train::read_train_options(file, words));
      };
    });
  };
  add("train", "tune a model inside its plan", run_training);
  add("plan", "what fits, how, and how fast; reads config.json only", run_plan);
}

}  // namespace thimble::cli
