// generate and chat: text in, text out as it comes.
#include <cstdio>
#include <deque>
#include <iostream>
#include <utility>

#include "cli/session.h"
#include "data/rows.h"
#include "data/stream_decoder.h"
#include "serve/stop_strings.h"

namespace thimble::cli {
namespace {

struct Options {
  SessionOptions session;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;  // else what generation_config.json says
  std::optional<int64_t> top_k;
  double presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::string> stop;
  std::string prompt, system, batch;
  int64_t new_tokens = 128;
};

serve::Sampling sampling(const Session& s, const Options& o) {
  serve::Sampling how = s.sampling();
  how.temperature = o.temperature.value_or(how.temperature);
  how.top_k = o.top_k.value_or(how.top_k);
  how.top_p = o.top_p.value_or(how.top_p);
  how.min_p = o.min_p.value_or(how.min_p);
  how.repetition_penalty = o.repetition_penalty.value_or(how.repetition_penalty);
  how.presence_penalty = o.presence_penalty;
  how.frequency_penalty = o.frequency_penalty;
  how.seed = o.seed;
  return how;
}

// One answer on its way: the text up to an end token, a stop string or the limit; on_text sees it as it comes, in whole characters.
class Answer {
 public:
  Answer(Session& s, const Options& o, std::function<void(const std::string&)> on_text)
      : session_(s), limit_(o.new_tokens), sampler_(sampling(s, o)), stop_(o.stop), decoder_(s.tokenizer()), on_text_(std::move(on_text)) {}
  Answer(const Answer&) = delete;

  // While it runs, this stays where it is.
  serve::Request to(std::vector<int32_t> prompt) {
    const auto limit = std::min<int64_t>(limit_, session_.context() - int64_t(prompt.size()));
    return {.prompt = std::move(prompt), .limit = std::max<int64_t>(limit, 1), .sampler = &sampler_,
            .on_token = [this](int32_t id) { return out(stop_.push(decoder_.push(id))), !stop_.stopped(); },
            .on_end = [this](const serve::Generated&) { out(stop_.push(decoder_.finish())), out(stop_.finish()), ended_ = true; }};
  }
  bool ended() const { return ended_; }
  const std::string& text() const { return text_; }

 private:
  void out(const std::string& piece) {
    text_ += piece;
    if (!piece.empty() && on_text_) on_text_(piece);
  }
  Session& session_;
  int64_t limit_;
  serve::Sampler sampler_;
  serve::StopStrings stop_;
  data::StreamDecoder decoder_;
  std::function<void(const std::string&)> on_text_;
  std::string text_;
  bool ended_ = false;
};

std::string answer(Session& s, const std::vector<int32_t>& prompt, const Options& o, const std::function<void(const std::string&)>& on_text) {
  Answer a(s, o, on_text);
  bool asked = false;
  s.engine().generate([&] { return std::exchange(asked, true) ? std::nullopt : std::optional(a.to(prompt)); }, s.ends());
  return a.text();
}

void print(const std::string& piece) {
  std::fputs(piece.c_str(), stdout);
  std::fflush(stdout);
}

// A line {"prompt": text} or {"messages": [{role, content}]}: its tokens.
std::vector<int32_t> read_prompt(const Session& s, data::Tokenizer& tokenizer, const Json& row, std::string_view where) {
  if (!row.is_object()) fail_field(where, "row", "an object", &row);
  if (row.contains("prompt")) return tokenizer.encode(require<std::string>(row, "prompt", where));
  const auto list = row.find("messages");
  if (list == row.end() || !list->is_array()) fail_field(where, "messages", "a prompt, or a list of messages", list == row.end() ? nullptr : &*list);
  std::vector<data::Message> messages;
  for (const Json& m : *list) {
    if (!m.is_object()) fail_field(where, "messages", "objects", &m);
    messages.push_back({require<std::string>(m, "role", where), require<std::string>(m, "content", where)});
  }
  return s.chat().encode(messages, {.generation_prompt = true, .tools = row.contains("tools") ? row["tools"] : Json()}).ids;
}

// Each line as alone: with the seed of the run, whatever came before it or runs beside it. Lines come out in their order.
int generate_batch(Session& s, const Options& o) {
  struct Line {
    Line(Json json, Session& s, const Options& o) : row(std::move(json)), answer(s, o, nullptr) {}
    Json row;
    Answer answer;
  };
  std::deque<Line> lines;  // read, and not yet printed
  const auto rows = data::open_rows(o.batch);
  const auto print_ended = [&] {
    for (; !lines.empty() && lines.front().answer.ended(); lines.pop_front()) {
      lines.front().row["text"] = lines.front().answer.text();
      print(lines.front().row.dump() + "\n");
    }
  };
  s.engine().generate([&]() -> std::optional<serve::Request> {
    print_ended();
    data::Row row;
    if (!rows->next(row)) return std::nullopt;
    const std::string where = rows->at_line(row.line);
    Json json = parse_json(row.text, where);
    auto prompt = read_prompt(s, s.tokenizer(), json, where);
    Line& line = lines.emplace_back(std::move(json), s, o);
    auto request = line.answer.to(std::move(prompt));
    request.fresh = true;
    return request;
  }, s.ends());
  print_ended();
  return 0;
}

int generate(const Options& o) {
  auto session = o.session;
  session.all_logits = false;
  if (o.batch.empty()) session.sequences = 1;
  Session s(session);
  if (!o.batch.empty()) return generate_batch(s, o);
  print(o.prompt);
  answer(s, s.tokenizer().encode(o.prompt), o, print);
  print("\n");
  return 0;
}

// A turn costs what is new: the engine keeps the cache up to the first token that the template writes otherwise than before.
int chat(const Options& o) {
  auto session = o.session;
  session.all_logits = false;
  Session s(session);
  std::vector<data::Message> messages;
  if (!o.system.empty()) messages.push_back({"system", o.system});
  for (std::string line; print("> "), std::getline(std::cin, line);) {
    if (line.empty()) continue;
    messages.push_back({"user", line});
    messages.push_back({"assistant", answer(s, s.chat().encode(messages, {.generation_prompt = true}).ids, o, print)});
    print("\n");
  }
  print("\n");
  return 0;
}

}  // namespace

void add_generate(CLI::App& app, Run& run) {
  const auto add = [&](const char* name, const char* help, int (*what)(const Options&)) {
    const auto o = std::make_shared<Options>();
    auto* c = app.add_subcommand(name, help);
    add_session_options(*c, o->session);
    c->add_option("--max-new-tokens", o->new_tokens, "tokens to generate at most")->check(CLI::Range(int64_t{1}, int64_t{1} << 22));
    c->add_option("--temperature", o->temperature, "0: the likeliest token (where this and those below are absent: as generation_config.json says)")->check(CLI::Range(0.0, 100.0));
    c->add_option("--top-k", o->top_k, "draw from so many of the likeliest; 0: all")->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
    c->add_option("--top-p", o->top_p, "draw from the likeliest that have this probability together")->check(CLI::Range(0.0, 1.0));
    c->add_option("--min-p", o->min_p, "leave out what is less likely than this share of the likeliest")->check(CLI::Range(0.0, 1.0));
    c->add_option("--repetition-penalty", o->repetition_penalty, "above 1: tokens of prompt and answer come back less")->check(CLI::Range(1e-6, 1e6));
    c->add_option("--presence-penalty", o->presence_penalty, "taken from the logits of tokens in the answer")->check(CLI::Range(-100.0, 100.0));
    c->add_option("--frequency-penalty", o->frequency_penalty, "taken for each time that a token is in the answer")->check(CLI::Range(-100.0, 100.0));
    c->add_option("--seed", o->seed);
    c->add_option("--stop", o->stop, "end before this string; may be given several times")->allow_extra_args(false)->check([](const std::string& s) {
      return s.empty() ? std::string("a stop string is not empty") : std::string();
    });
    if (std::string_view(name) == "generate") {
      auto* prompt = c->add_option("--prompt", o->prompt, "text to continue");
      c->add_option("--batch", o->batch, "file of {\"prompt\": ...} or {\"messages\": [...]}: each line is printed again, with its text")->excludes(prompt);
      o->session.sequences = 4;
      c->add_option("--sequences", o->session.sequences, "of --batch at a time, each with a cache of --context tokens")->check(CLI::Range(1, 256));
    } else {
      c->add_option("--system", o->system, "system message");
    }
    c->callback([=, &run] { run = [=] { return what(*o); }; });
  };
  add("generate", "continue a text", generate);
  add("chat", "talk to a model, line by line", chat);
}

}  // namespace thimble::cli
