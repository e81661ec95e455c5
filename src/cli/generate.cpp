// generate and chat: text in, text out as it comes.
#include <cstdio>
#include <iostream>

#include "cli/session.h"
#include "data/stream_decoder.h"

namespace thimble::cli {
namespace {

struct Options {
  SessionOptions session;
  serve::Sampling sampling;
  std::string prompt, system;
  int64_t new_tokens = 128;
};

serve::Generated stream_answer(Session& s, const std::vector<int32_t>& prompt, const Options& o, std::string& text) {
  serve::Sampler sampler(o.sampling);
  data::StreamDecoder decoder(s.tokenizer());
  const auto out = [&](const std::string& piece) {
    text += piece;
    std::fputs(piece.c_str(), stdout);
    std::fflush(stdout);
  };
  const auto limit = std::min<int64_t>(o.new_tokens, s.context() - int64_t(prompt.size()));
  const auto g = s.engine().generate(prompt, std::max<int64_t>(limit, 1), s.ends(), sampler, [&](int32_t id) { out(decoder.push(id)); return true; });
  out(decoder.finish());
  std::fputs("\n", stdout);
  return g;
}

int generate(const Options& o) {
  Session s(o.session);
  std::string text;
  std::fputs(o.prompt.c_str(), stdout);
  stream_answer(s, s.tokenizer().encode(o.prompt), o, text);
  return 0;
}

int chat(const Options& o) {
  Session s(o.session);
  std::vector<data::Message> messages;
  if (!o.system.empty()) messages.push_back({"system", o.system});
  for (std::string line; std::fputs("> ", stdout), std::fflush(stdout), std::getline(std::cin, line);) {
    if (line.empty()) continue;
    messages.push_back({"user", line});
    std::string answer;
    stream_answer(s, s.chat().encode(messages, {.generation_prompt = true}).ids, o, answer);
    messages.push_back({"assistant", answer});
  }
  std::fputs("\n", stdout);
  return 0;
}

}  // namespace

void add_generate(CLI::App& app, Run& run) {
  const auto add = [&](const char* name, const char* help, int (*what)(const Options&)) {
    const auto o = std::make_shared<Options>();
    auto* c = app.add_subcommand(name, help);
    add_session_options(*c, o->session);
    c->add_option("--max-new-tokens", o->new_tokens, "tokens to generate at most")->check(CLI::Range(int64_t{1}, int64_t{1} << 22));
    c->add_option("--temperature", o->sampling.temperature, "0: the likeliest token")->check(CLI::Range(0.0, 100.0));
    c->add_option("--top-k", o->sampling.top_k)->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
    c->add_option("--top-p", o->sampling.top_p)->check(CLI::Range(0.0, 1.0));
    c->add_option("--seed", o->sampling.seed);
    if (std::string_view(name) == "generate") c->add_option("--prompt", o->prompt, "text to continue");
    else c->add_option("--system", o->system, "system message");
    c->callback([=, &run] { run = [=] { return what(*o); }; });
  };
  add("generate", "continue a text", generate);
  add("chat", "talk to a model, line by line", chat);
}

}  // namespace thimble::cli
