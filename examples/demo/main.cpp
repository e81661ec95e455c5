// thimble-world: writes the demo's world into a folder: text for `stage: pt`, questions to tune on and questions held out, the
// tokenizer and the shape of a small Llama. The same seed writes the same bytes on every machine.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "model_files.h"
#include "words.h"
#include "world.h"

namespace thimble::demo {

namespace {

struct Options {
  fs::path out;
  int64_t seed = 1, people = 64, documents = 22000, hidden = 192, layers = 4, ffn = 448, heads = 6, kv_heads = 6;
};

constexpr std::string_view usage =
    "thimble-world --out DIR [--seed 1] [--people 64] [--documents 22000] [--hidden 192] [--layers 4] [--ffn 448] [--heads 6] [--kv-heads 6]";

[[noreturn]] void fail_usage(std::string what, std::string found) {
  throw Error(Fault::usage, {.what = std::move(what), .where = "command line", .expected = std::string(usage), .found = std::move(found), .fix = ""});
}

int64_t number(std::string_view key, const std::string& text) {
  char* end = nullptr;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end || value < (key == "--seed" ? 0 : 1) || value > 100'000'000) fail_usage(std::string(key) + " takes a positive number", text);
  return value;
}

Options parse(int count, char** words) {
  Options o;
  const std::map<std::string_view, int64_t*> numbers{{"--seed", &o.seed},     {"--people", &o.people}, {"--documents", &o.documents}, {"--hidden", &o.hidden},
                                                     {"--layers", &o.layers}, {"--ffn", &o.ffn},       {"--heads", &o.heads},         {"--kv-heads", &o.kv_heads}};
  for (int i = 1; i < count; i += 2) {
    const std::string_view key = words[i];
    if (i + 1 == count) fail_usage("an option stands without its value", words[i]);
    if (key == "--out") {
      o.out = words[i + 1];
    } else if (const auto it = numbers.find(key); it != numbers.end()) {
      *it->second = number(key, words[i + 1]);
    } else {
      fail_usage("an option is unknown", words[i]);
    }
  }
  if (o.out.empty()) fail_usage("the folder to write is missing", "no --out");
  if (o.hidden % o.heads || o.heads % o.kv_heads) fail_usage("hidden must be a multiple of heads, and heads of kv-heads", fmt::format("{} {} {}", o.hidden, o.heads, o.kv_heads));
  return o;
}

int64_t write_text(const World& world, const fs::path& path, int64_t documents) {
  AtomicFile file(path);
  int64_t words = 0;
  for (int64_t i = 0; i < documents; ++i) {
    const std::string text = world.document(i);
    for (const char c : text) words += c == ' ';
    ++words;
    const std::string line = Json{{"text", text}}.dump() + "\n";
    file.write(line.data(), int64_t(line.size()));
  }
  file.commit();
  return words;
}

int64_t write_questions(const std::vector<Question>& questions, const fs::path& path) {
  std::string lines;
  for (const Question& q : questions) lines += Json{{"prompt", q.prompt}, {"response", q.response}, {"kind", q.kind}}.dump() + "\n";
  write_atomically(path, lines);
  return int64_t(questions.size());
}

void run(const Options& o) {
  const World world(uint64_t(o.seed), int(o.people));
  fs::create_directories(o.out);
  const int64_t words = write_text(world, o.out / "text.jsonl", o.documents);
  const int64_t train = write_questions(world.questions(true), o.out / "questions_train.jsonl");
  const int64_t test = write_questions(world.questions(false), o.out / "questions_test.jsonl");
  const ModelFiles model = write_model_files(
      o.out, words_of(world),
      {.hidden = int(o.hidden), .layers = int(o.layers), .ffn = int(o.ffn), .heads = int(o.heads), .kv_heads = int(o.kv_heads)});

  Json people = Json::array(), candidates = Json::object();
  for (const Kind& k : kinds()) candidates[std::string(k.key)] = k.values.size();
  for (const Person& p : world.people()) {
    Json facts = Json::object();
    for (size_t k = 0; k < kinds().size(); ++k) facts[std::string(kinds()[k].key)] = p.facts[k];
    people.push_back({{"name", p.name}, {"questions", p.tuned ? "train" : "test"}, {"facts", facts}});
  }
  const Json record = {{"seed", o.seed},
                       {"people", people},
                       {"facts", o.people * int64_t(kinds().size())},
                       {"candidates", candidates},
                       {"chance", world.chance()},
                       {"commonest_answer", world.commonest(false)},
                       {"counts", {{"documents", o.documents}, {"words", words}, {"questions_train", train}, {"questions_test", test}}},
                       {"model", {{"vocabulary", model.vocabulary}, {"parameters", model.parameters}}}};
  write_atomically(o.out / "world.json", record.dump(1) + "\n");

  fmt::print("world {}: {} people x {} facts, {} documents of {} words, vocabulary {}, a model of {} parameters\n", o.seed, o.people, kinds().size(), o.documents,
             words, model.vocabulary, model.parameters);
  fmt::print("questions: {} to tune on, {} held out (other people); answers to choose from:", train, test);
  for (const Kind& k : kinds()) fmt::print(" {} {}", k.key, k.values.size());
  fmt::print("\nchance {:.1f}%, always the commonest answer {:.1f}%\n", 100 * world.chance(), 100 * world.commonest(false));
}

}  // namespace

}  // namespace thimble::demo

int main(int count, char** words) {
  try {
    thimble::demo::run(thimble::demo::parse(count, words));
    return 0;
  } catch (const thimble::Error& e) {
    fmt::print(stderr, "thimble-world: {}\n", e.what());
    return int(e.fault());
  } catch (const std::exception& e) {
    fmt::print(stderr, "thimble-world: {}\n", e.what());
    return 1;
  }
}
