// plan and train: the same plan, printed or run.
#include <chrono>
#include <cmath>
#include <cstdio>

#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/run_plan.h"
#include "data/dataset.h"
#include "store/adapter_files.h"
#include "train/loss_plot.h"
#include "train/progress.h"
#include "train/trainer_log.h"

namespace thimble::cli {
namespace {

using Clock = std::chrono::steady_clock;
double since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

struct Data {
  data::Batches training, evaluation;
};

std::vector<fs::path> paths(const train::TrainOptions& o, const std::vector<std::string>& entries) {
  std::vector<fs::path> files;
  for (const auto& e : entries) files.push_back(train::find_dataset(o, e));
  return files;
}

Data read_data(const train::TrainOptions& o, const data::Tokenizer& tokenizer, int64_t rows, int64_t vocab) {
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

std::vector<data::MicroBatch> all_of(const data::Batches& b) {
  std::vector<data::MicroBatch> all;
  if (b.examples().size() == 0) return all;
  for (int64_t i = 0; i < b.micro_batches_per_epoch(); ++i) all.push_back(b.at(0, i));
  return all;
}

void save_run(const train::TrainOptions& o, const train::Setup& setup, train::Trainer& trainer) {
  const fs::path out = o.output_dir, model = o.model_name_or_path, base = fs::is_directory(model) ? model : model.parent_path();
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "chat_template.jinja"})
    if (fs::exists(base / name)) fs::copy_file(base / name, out / name, fs::copy_options::overwrite_existing);
  if (!setup.method.trains_weights) {
    store::AdapterConfig config{.rank = o.lora_rank, .alpha = *o.lora_alpha, .rslora = o.use_rslora, .base_model = o.model_name_or_path};
    for (int p = 0; p < nn::layer_param_count; ++p)
      if (const std::string_view leaf = nn::leaf_names[p]; setup.method.lora.on(p)) config.targets.emplace_back(leaf.substr(leaf.rfind('.') + 1));
    store::write_adapter(out, config, trainer.model().adapters()->specs(), [&](const auto& put) { trainer.save(put); });
    return;
  }
  std::vector<store::SafetensorsWriter::Declared> declared;
  const DType dtype = nn::file_dtype(setup.model);
  store::as_files_hold(trainer.model().weights().table()).for_each([&](const store::ParamSpec& p) { declared.push_back({p.name, dtype, p.shape}); });
  store::SafetensorsWriter writer(out / "model.safetensors", std::move(declared));
  std::vector<std::byte> converted;
  trainer.save([&](const store::ParamSpec&, Tensor rows) {
    if (dtype == DType::f32) return writer.write(rows);
    converted.resize(size_t(rows.count() * size_of(dtype)));
    const Tensor to{converted.data(), dtype, rows.shape};
    visit_float(dtype, [&]<class T>(T) { for (int64_t i = 0; i < rows.count(); ++i) to.get<T>()[i] = T(rows.get<float>()[i]); });
    writer.write(to);
  });
  writer.commit();
  fs::copy_file(base / "config.json", out / "config.json", fs::copy_options::overwrite_existing);
}

int run_training(const train::TrainOptions& o) {
  train::require_for_run(o);
  const Planned planned = make_plan(o);
  if (!planned.choice.best) refuse(o, planned);
  const auto& [plan, outcome] = *planned.choice.best;
  std::fputs(plan::report(*planned.choice.best, planned.budget, planned.spec, planned.process_bytes).c_str(), stdout);
  std::fflush(stdout);
  train::prepare_output_dir(o);
  // Every option with the value it has, defaults too: a recipe that repeats this run.
  write_atomically(fs::path(o.output_dir) / "args.json", to_json(o).dump(2) + "\n");

  const auto tokenizer = data::Tokenizer::open(o.model_name_or_path);
  const Data data = read_data(o, *tokenizer, plan.micro_batch, planned.setup.model.vocab);
  const auto evaluation = all_of(data.evaluation);
  const auto device = open_device(planned.spec);
  comm::Rank rank(*device, {outcome.peak[size_t(Tier::device)], outcome.peak[size_t(Tier::pinned)], outcome.peak[size_t(Tier::host)]});
  train::Trainer trainer(rank, planned.setup, plan);
  const auto source = store::open_weights(o.model_name_or_path);
  source->check_table(trainer.model().weights().table());
  trainer.load(source.get());
  if (o.adapter_name_or_path) {
    const store::AdapterFile file(*o.adapter_name_or_path, trainer.model().adapters()->specs());
    trainer.load_adapters([&](const store::ParamSpec& p, Tensor to) { file.read(p, to); });
  }
  rank.ledger.record(false);

  const int64_t micro = data.training.micro_batches_per_epoch(), per_epoch = (micro + plan.accumulation - 1) / plan.accumulation;
  const int64_t total = o.max_steps > 0 ? o.max_steps : std::max<int64_t>(1, int64_t(std::ceil(o.num_train_epochs * double(per_epoch))));
  const auto schedule = o.schedule(total);
  train::TrainerLog log(o.output_dir);
  train::Progress progress({.logging_steps = o.logging_steps, .first_step = o.logging_first_step});
  const auto tiers = [&] {
    std::vector<train::TierUse> uses;
    for (const Tier t : {Tier::device, Tier::pinned}) uses.push_back({t, rank.ledger.peak(t), outcome.peak[size_t(t)]});
    return uses;
  };
  const auto begin = Clock::now();
  double loss_sum = 0;
  train::StepReport report{.total_steps = total};
  double lately = 0;
  const auto evaluate = [&](int64_t step, double epoch) {
    if (evaluation.empty()) return;
    const auto started = Clock::now();
    const auto r = trainer.evaluate(evaluation);
    progress.clear();
    log.evaluated({.step = step, .total_steps = total, .epoch = epoch, .loss = r.loss, .seconds = since(begin), .eval_seconds = since(started),
                   .rows = data.evaluation.examples().size()});
    log_info("eval at step {}: loss {:.4f}, {:.1f}% of the tokens right", step, r.loss, 100.0 * double(r.correct) / double(std::max<int64_t>(1, r.targets)));
  };
  for (int64_t step = 0; step < total; ++step) {
    const int64_t epoch = step / per_epoch, first = step % per_epoch * plan.accumulation;
    std::vector<data::MicroBatch> window;
    for (int64_t i = first; i < std::min(first + plan.accumulation, micro); ++i) window.push_back(data.training.at(epoch, i));
    const double rate = train::learning_rate(schedule, step);
    const auto started = Clock::now();
    const auto r = trainer.step(window, rate);
    if (!r.finite())
      throw Error(Fault::internal, {.what = "the loss or the gradient is not a number; the update was not made, the run ends here",
                                    .where = fmt::format("step {}", step + 1),
                                    .found = fmt::format("loss {}, gradient norm {}", r.loss, r.grad_norm), .fix = "lower learning_rate"});
    loss_sum += r.loss;
    lately = lately == 0 ? double(r.tokens) / since(started) : 0.9 * lately + 0.1 * double(r.tokens) / since(started);
    report.step = step + 1;
    report.epoch = double(step + 1) / double(per_epoch);
    report.loss = r.loss;
    report.learning_rate = rate;
    report.grad_norm = r.grad_norm;
    report.seconds = since(begin);
    report.tokens += r.tokens;
    report.tokens_per_second = lately;
    if ((step + 1) % o.logging_steps == 0 || (step == 0 && o.logging_first_step) || step + 1 == total) log.step(report);
    progress.show(report, tiers());
    const bool by_steps = o.eval_strategy == train::When::steps && (step + 1) % o.eval_steps.value_or(o.logging_steps) == 0;
    const bool by_epoch = o.eval_strategy == train::When::epoch && (step + 1) % per_epoch == 0;
    const bool at_end = o.eval_strategy != train::When::no && step + 1 == total;
    if (by_steps || by_epoch || at_end) evaluate(step + 1, report.epoch);
  }
  progress.finish();
  save_run(o, planned.setup, trainer);
  log.finish({.steps = total, .total_steps = total, .rows = data.training.examples().size(), .tokens = report.tokens,
              .batch_size = o.per_device_train_batch_size, .epoch = report.epoch, .num_train_epochs = o.num_train_epochs,
              .loss = loss_sum / double(total), .seconds = since(begin), .logging_steps = o.logging_steps});
  if (o.plot_loss) train::write_loss_plot(fs::path(o.output_dir) / "training_loss.png", log.losses());
  std::printf("%lld steps, %lld tokens in %.1f s (%.0f tokens/s; predicted %.0f); mean loss %.4f; results in %s\n", static_cast<long long>(total),
              static_cast<long long>(report.tokens), since(begin), double(report.tokens) / since(begin), outcome.tokens_per_second(plan),
              loss_sum / double(total), o.output_dir.c_str());
  return 0;
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
