// eval: how likely the model finds the answers of a file, and whether its own are the same, word for word; or which of lettered choices it takes.
#include <cmath>
#include <cstdio>

#include "base/log.h"
#include "cli/multiple_choice.h"
#include "cli/session.h"
#include "data/row_format.h"
#include "data/rows.h"

namespace thimble::cli {
namespace {

struct Options {
  SessionOptions session;
  std::string data, examples;
  int64_t new_tokens = 32, show = 0, most = -1, shots = 5;
  bool no_generate = false;
};

std::string trimmed(const std::string& s) {
  const auto begin = s.find_first_not_of(" \t\r\n"), end = s.find_last_not_of(" \t\r\n");
  return begin == s.npos ? "" : s.substr(begin, end - begin + 1);
}

std::vector<data::Sample> read_samples(const fs::path& file, int64_t most) {
  const auto reader = data::open_rows(file);
  std::optional<data::RowFormat> format;
  std::vector<data::Sample> samples;
  for (data::Row row; (most < 0 || int64_t(samples.size()) < most) && reader->next(row);) {
    const auto where = reader->at_line(row.line);
    const Json json = parse_json(row.text, where);
    if (!format) format.emplace(data::find_layout(json, where));
    samples.push_back(format->read(json, where));
    const auto& [messages, tools, text, unusable] = samples.back();
    if (messages.empty() || !unusable.empty())
      throw Error(Fault::bad_input, {.what = "a row has no answer to compare with", .where = where, .expected = "a prompt and a response", .found = unusable});
  }
  if (samples.empty()) throw Error(Fault::bad_input, {.what = "a file without rows", .where = file.string()});
  return samples;
}

// The last answer of each conversation, predicted token by token from the file's own words before it.
void print_score(Session& s, const std::vector<data::Sample>& samples) {
  serve::Score all;
  for (const auto& sample : samples) {
    const auto chat = s.chat().encode(sample.messages, {.mask_history = true});
    std::vector<int32_t> targets(chat.ids.size(), -1);
    for (size_t t = 1; t < chat.ids.size(); ++t)
      if (chat.trained[t]) targets[t - 1] = chat.ids[t];
    const auto one = s.engine().score(chat.ids, targets);
    all.loss += one.loss;
    all.targets += one.targets;
    all.correct += one.correct;
  }
  const double n = double(std::max<int64_t>(1, all.targets)), loss = all.loss / n;
  std::printf("answer tokens: %lld, loss %.4f, perplexity %.4f, %.1f%% right\n", static_cast<long long>(all.targets), loss, std::exp(loss),
              100.0 * double(all.correct) / n);
}

void print_matches(Session& s, const std::vector<data::Sample>& samples, const Options& o) {
  serve::Sampler greedy({});
  int64_t right = 0, shown = 0;
  for (const auto& sample : samples) {
    const std::span<const data::Message> prompt(sample.messages.data(), sample.messages.size() - 1);
    const auto ids = s.chat().encode(prompt, {.generation_prompt = true}).ids;
    const auto answer = trimmed(s.tokenizer().decode(s.engine().generate(ids, o.new_tokens, s.ends(), greedy).ids));
    const auto expected = trimmed(sample.messages.back().content);
    right += answer == expected;
    if (shown++ < o.show) std::printf("%s\n  expected: %s\n  answered: %s\n", prompt.back().content.c_str(), expected.c_str(), answer.c_str());
  }
  std::printf("exact match: %lld of %zu (%.1f%%)\n", static_cast<long long>(right), samples.size(), 100.0 * double(right) / double(samples.size()));
}

int choose(const Options& o, const std::vector<Question>& questions) {
  auto examples = o.examples.empty() ? std::optional<std::vector<Question>>() : read_questions(o.examples, o.shots);
  if (!o.examples.empty() && !examples)
    throw Error(Fault::bad_input, {.what = "no questions to show as examples", .where = o.examples, .expected = "rows with question, choices and answer"});
  Session s(o.session);
  print_choices(s, questions, examples.value_or(std::vector<Question>()));
  return 0;
}

int evaluate(const Options& o) {
  if (const auto questions = read_questions(o.data, o.most)) return choose(o, *questions);
  const auto samples = read_samples(o.data, o.most);
  Session s(o.session);
  print_score(s, samples);
  if (!o.no_generate) print_matches(s, samples, o);
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Run& run) {
  const auto o = std::make_shared<Options>();
  auto* c = app.add_subcommand("eval", "loss, perplexity and accuracy of a file's answers; then generate answers and count those that match word for word");
  o->session.context = 512;
  add_session_options(*c, o->session);
  c->add_option("--data", o->data, "rows with prompts and answers, in any form that train reads; or questions with choices A, B, ... as MMLU has them")->required();
  c->add_option("--examples", o->examples, "of multiple choice: questions that are shown with their answers first");
  c->add_option("--shots", o->shots, "how many of these")->check(CLI::Range(int64_t{0}, int64_t{100}));
  c->add_option("--max-new-tokens", o->new_tokens, "tokens of an answer at most")->check(CLI::Range(1, 1 << 20));
  c->add_option("--max-rows", o->most, "rows to ask at most");
  c->add_flag("--no-generate", o->no_generate, "loss, perplexity and accuracy alone");
  c->add_option("--show", o->show, "answers to print");
  c->callback([=, &run] { run = [=] { return evaluate(*o); }; });
}

}  // namespace thimble::cli
