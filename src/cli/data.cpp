// data check: what a file holds, what would be learned of it, and the first row that is wrong. data prepare: a recipe's data tokenised ahead.
#include <unistd.h>

#include <cstdio>

#include "base/log.h"
#include "base/threads.h"
#include "cli/commands.h"
#include "cli/run_data.h"

namespace thimble::cli {
namespace {

struct Options {
  std::string data, model, dataset_dir = "data", stage;
  std::optional<int64_t> threads;
  data::DatasetOptions how;
};

// Of what the rows hold, where the user does not say it.
data::Stage stage_of(const data::Source& source) {
  const auto rows = data::open_rows(source.files[0]);
  if (rows->is_plain_text()) return data::Stage::pretrain;
  try {
    data::Row row;
    if (!source.layout && !rows->next(row)) return data::Stage::sft;
    const auto form = source.layout ? source.layout->form : data::find_layout(parse_json(row.text, rows->at_line(row.line)), rows->at_line(row.line)).form;
    return form == data::RowForm::text ? data::Stage::pretrain : data::Stage::sft;
  } catch (const Error&) {
    return data::Stage::sft;  // what is wrong with the row is reported when it is read
  }
}

// With the learned tokens marked: in colour on a terminal, else in brackets.
void print_sample(const data::Tokenizer& tokenizer, std::span<const int32_t> ids, std::span<const uint8_t> learned) {
  const bool colour = ::isatty(STDOUT_FILENO);
  std::printf("first example, its learned tokens %s:\n", colour ? "in green" : "in [[ ]]");
  constexpr size_t most = 400;
  for (size_t begin = 0, end; begin < std::min(ids.size(), most); begin = end) {
    for (end = begin; end < std::min(ids.size(), most) && learned[end] == learned[begin];) ++end;
    const std::string text = tokenizer.decode(ids.subspan(begin, end - begin), false);
    const bool marked = learned[begin] != 0;
    std::printf("%s%s%s", !marked ? "" : colour ? "\033[32m" : "[[", text.c_str(), !marked ? "" : colour ? "\033[0m" : "]]");
  }
  std::printf("%s\n", ids.size() > most ? " ..." : "");
}

void print_lengths(const data::DatasetReport& r) {
  if (r.lengths.empty()) return;
  const int64_t most = *std::max_element(r.lengths.begin(), r.lengths.end());
  size_t first = 0;
  while (first + 1 < r.lengths.size() && r.lengths[first] == 0) ++first;
  std::printf("length in tokens:\n");
  for (size_t i = first; i < r.lengths.size(); ++i)
    std::printf("  %7lld to %7lld  %9lld  %s\n", 1ll << i, (2ll << i) - 1, static_cast<long long>(r.lengths[i]),
                std::string(size_t((r.lengths[i] * 40 + most - 1) / most), '#').c_str());
}

int check(const Options& o) {
  if (o.threads) set_thread_count(int(*o.threads));
  const data::Source source = data::find_source(o.data, o.dataset_dir);
  const auto tokenizer = data::Tokenizer::open(o.model);
  const auto chat = data::Chat::open(o.model, *tokenizer);
  auto how = o.how;
  how.stage = o.stage == "pt" ? data::Stage::pretrain : o.stage == "sft" ? data::Stage::sft : stage_of(source);

  std::vector<int32_t> sample;
  std::vector<uint8_t> marks;
  int64_t bad = 0;
  std::optional<Error> first_bad;
  const data::DatasetReport r = data::tokenize(
      source, *tokenizer, *chat, how,
      [&](std::span<const int32_t> ids, std::span<const uint8_t> learned) {
        if (sample.empty()) sample.assign(ids.begin(), ids.end()), marks.assign(learned.begin(), learned.end());
      },
      [&](const Error& e) {
        if (!bad++) first_bad = e;
      });

  const auto number = [](int64_t n) { return static_cast<long long>(n); };
  int64_t bytes = 0;
  for (const fs::path& f : source.files) bytes += int64_t(fs::file_size(f));
  std::printf("%s: %zu file%s, %s, trained as stage %s\n", source.name.c_str(), source.files.size(), source.files.size() == 1 ? "" : "s", human_bytes(bytes).c_str(),
              how.stage == data::Stage::pretrain ? "pt" : "sft");
  std::printf("form: %s\n", r.form.c_str());
  std::printf("rows: %lld, of which %lld damaged\n", number(r.rows), number(bad));
  for (const auto& [reason, n] : r.dropped) std::printf("dropped: %lld rows: %s (the first: %s)\n", number(n), reason.c_str(), r.first_dropped.c_str());
  std::printf("examples: %lld, %lld tokens, %lld learned (%.1f%%)\n", number(r.examples), number(r.tokens), number(r.trained_tokens),
              100.0 * double(r.trained_tokens) / double(std::max<int64_t>(1, r.tokens)));
  std::printf("truncated: %lld examples (%.2f%%) at %lld tokens; the longest row has %lld\n", number(r.truncated),
              100.0 * double(r.truncated) / double(std::max<int64_t>(1, r.examples)), number(how.cutoff_len), number(r.longest));
  for (const auto& note : source.notes) std::printf("without effect here: %s\n", note.c_str());
  print_lengths(r);
  if (!sample.empty()) print_sample(*tokenizer, sample, marks);
  std::fflush(stdout);
  if (first_bad) throw *first_bad;
  return 0;
}

int prepare(const train::TrainOptions& o) {
  if (o.threads) set_thread_count(int(*o.threads));
  for (const auto& [there, key] : {std::pair{!o.model_name_or_path.empty(), "model_name_or_path"}, {!o.dataset.empty(), "dataset"}})
    if (!there) throw Error(Fault::usage, {.what = fmt::format("'{}' is not given", key)});
  const auto tokenizer = data::Tokenizer::open(o.model_name_or_path);
  const RunData data = read_run_data(o, *tokenizer, o.per_device_train_batch_size);
  std::printf("%lld examples to train on, %lld to evaluate on\n", static_cast<long long>(data.training.examples().size()),
              static_cast<long long>(data.evaluation.examples().size()));
  return 0;
}

}  // namespace

void add_data(CLI::App& app, Run& run) {
  auto* data = app.add_subcommand("data", "look at data before a run, and tokenise it");
  data->require_subcommand(1);
  const auto o = std::make_shared<Options>();
  auto* c = data->add_subcommand("check", "what a file, folder or entry of dataset_info.json holds, and what would be learned of it; exit 3 where a row is damaged");
  c->add_option("data", o->data, "file, folder, or a name in dataset_info.json")->required();
  c->add_option("--model", o->model, "folder of the model whose tokenizer and template are used")->required();
  c->add_option("--dataset-dir", o->dataset_dir, "where dataset_info.json is");
  c->add_option("--stage", o->stage, "sft or pt; else what the rows are fit for")->check(CLI::IsMember({"sft", "pt"}));
  c->add_option("--cutoff-len", o->how.cutoff_len, "tokens of an example at most")->check(CLI::Range(int64_t{2}, int64_t{1} << 24));
  c->add_option("--max-samples", o->how.max_samples, "rows to read at most")->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  c->add_flag("--train-on-prompt", o->how.train_on_prompt, "prompts are learned too");
  c->add_flag("--mask-history", o->how.mask_history, "of several answers only the last is learned");
  c->add_option("--default-system", o->how.default_system, "system message of conversations that bring none");
  c->add_option("--threads", o->threads, "CPU threads")->check(CLI::Range(1, 4096));
  c->callback([=, &run] { run = [=] { return check(*o); }; });
  takes_recipe(*data->add_subcommand("prepare", "tokenise a recipe's data, which a run with the same recipe then finds"), run, prepare);
}

}  // namespace thimble::cli
