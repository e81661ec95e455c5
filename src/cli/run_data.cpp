// The one reader of data for train and data prepare, so that what is prepared is what is found.
#include "cli/run_data.h"

#include <malloc.h>

#include "base/log.h"
#include "cli/run_plan.h"

namespace thimble::cli {
namespace {

bool packs(const train::TrainOptions& o) { return o.packing.value_or(false) || o.neat_packing; }
// Texts run on into each other, as LLaMA-Factory packs for pt.
bool joins(const train::TrainOptions& o) { return o.stage == train::Stage::pt && packs(o) && !o.neat_packing; }

void log_report(const data::Source& s, const data::Dataset& set, const train::TrainOptions& o) {
  const auto& r = set.report;
  log_info("data '{}': {} rows of {}, {} examples, {} tokens ({} learned){}", s.name, r.rows, r.form, r.examples, r.tokens, r.trained_tokens,
           set.from_cache ? ", tokenised before" : "");
  for (const auto& note : s.notes) log_info("without effect here: {}", note);
  for (const auto& [reason, count] : r.dropped) log_warning("{} of {} rows dropped: {} (the first: {})", count, r.rows, reason, r.first_dropped);
  if (r.truncated) log_warning("{} of {} examples lose their end to cutoff_len {}: the longest has {} tokens", r.truncated, r.examples, o.cutoff_len, r.longest);
}

data::Examples read_all(const train::TrainOptions& o, const std::vector<std::string>& entries, data::Mix how, std::span<const double> probabilities,
                        const data::Tokenizer& tokenizer, const data::TokenCache& cache, uint64_t seed) {
  const auto chat = data::Chat::open(o.model_name_or_path, tokenizer);
  const data::DatasetOptions options = dataset_options(o);
  std::vector<data::Source> sources;  // all are looked for before one is read
  for (const auto& entry : entries) sources.push_back(data::find_source(entry, o.dataset_dir));
  std::vector<data::Examples> sets;
  for (const data::Source& s : sources) {
    data::Dataset set = data::read_dataset(s, tokenizer, *chat, options, cache);
    log_report(s, set, o);
    sets.push_back(s.samples < 0 ? std::move(set.examples) : data::choose(set.examples, s.samples, seed));
  }
  return data::mix(sets, how, probabilities, seed);
}

}  // namespace

data::DatasetOptions dataset_options(const train::TrainOptions& o) {
  return {.stage = o.stage == train::Stage::pt ? data::Stage::pretrain : data::Stage::sft, .cutoff_len = o.cutoff_len, .packing = joins(o),
          .train_on_prompt = o.train_on_prompt, .mask_history = o.mask_history, .default_system = o.default_system, .max_samples = o.max_samples.value_or(-1)};
}

RunData read_run_data(const train::TrainOptions& o, const data::Tokenizer& tokenizer, int64_t rows) {
  const auto seed = uint64_t(o.data_seed.value_or(o.seed));
  const fs::path folder = o.tokenized_path ? fs::path(*o.tokenized_path) : fs::path(cache_folder().empty() ? o.output_dir : cache_folder()) / "tokens";
  const data::TokenCache cache{.folder = folder, .maker = data::fingerprint_of_tokenizer(o.model_name_or_path) + " " + o.template_name.value_or(""),
                               .overwrite = o.overwrite_cache};
  data::Examples training = read_all(o, o.dataset, o.mix_strategy, o.interleave_probs, tokenizer, cache, seed), evaluation;
  if (o.val_size > 0) std::tie(training, evaluation) = data::split(training, o.val_size, seed);
  if (!o.eval_dataset.empty()) evaluation = read_all(o, o.eval_dataset, data::Mix::concat, {}, tokenizer, cache, seed);
  ::malloc_trim(0);  // what tokenising took is the plan's again
  const data::BatchOptions batches{.rows = rows, .cutoff = o.cutoff_len, .packing = packs(o) && !joins(o), .shuffle = !o.disable_shuffling, .seed = seed};
  auto quiet = batches;
  quiet.shuffle = false;
  return {{std::move(training), batches}, {std::move(evaluation), quiet}};
}

}  // namespace thimble::cli
