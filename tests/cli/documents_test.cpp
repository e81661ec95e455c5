// What the documents say can be typed. In README.md and docs/ a fenced block without a language holds commands of ours, or one and what it printed, and
// each runs here, on a tiny model; a block that is no command is ```text; one that does not run here is ```sh and says why behind a colon, as in
// ```sh not run: PyTorch. So do the recipes' own commands. Of what stands within a line, programs, tests, options and files are there.
#include <fnmatch.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "cli/program.h"

namespace thimble::cli {
namespace {

const fs::path source = THIMBLE_SOURCE_DIR;
constexpr std::string_view program = "build/cpu/thimble ";

struct Block {
  std::string language;
  std::vector<std::string> lines;
};

// A page's fenced blocks, and all other lines.
struct Page {
  std::string name;
  std::vector<Block> blocks;
  std::string text;

  explicit Page(const fs::path& path) : name(path.lexically_relative(source).string()) {
    std::istringstream lines(read_text(path));
    bool fenced = false;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("```")) {
        if ((fenced = !fenced)) blocks.push_back({.language = line.substr(3), .lines = {}});
      } else if (fenced) blocks.back().lines.push_back(line);
      else text += line + "\n";
    }
    EXPECT_FALSE(fenced) << name << " leaves a block open";
  }
};

std::vector<Page> pages(std::initializer_list<const char*> folders) {
  std::vector<Page> all{Page(source / "README.md")};
  for (const char* folder : folders)
    for (const auto& entry : fs::directory_iterator(source / folder))
      if (entry.path().extension() == ".md") all.emplace_back(entry.path());
  return all;
}

std::string without_comment(const std::string& line) { return line.substr(0, line.find("  #")); }

// A block's commands, and in `others` what it holds besides.
std::vector<std::string> commands_of(const Block& block, std::vector<std::string>& others) {
  std::vector<std::string> commands;
  const bool transcript = !block.lines.empty() && block.lines[0].starts_with("$ ");
  for (std::string line : block.lines) {
    if (transcript && !line.starts_with("$ ")) continue;
    if (transcript) line.erase(0, 2);
    if (line.starts_with(program)) commands.push_back(without_comment(line.substr(program.size())));
    else others.push_back(line);
  }
  return commands;
}

// All matches of the expression's first group.
std::vector<std::string> found(const std::string& text, const std::string& expression) {
  const std::regex pattern(expression);
  std::vector<std::string> all;
  for (auto m = std::sregex_iterator(text.begin(), text.end(), pattern); m != std::sregex_iterator(); ++m) all.push_back((*m)[1]);
  return all;
}

// The folder that the documents' commands are typed in: config.json, DIR, recipe.yaml, questions.jsonl, and the demo's files.
class Documents : public Program {
 protected:
  void SetUp() override {
    write("config.json", R"({"architectures":["LlamaForCausalLM"],"vocab_size":1024,"hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,)"
                         R"("num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":512,"eos_token_id":0})");
    fs::copy_file(source / "tests/golden/bytelevel_llama3.json", folder / "tokenizer.json");
    write("questions.jsonl", R"({"prompt":"Where does Ann live?","response":"In York."})"
                             "\n"
                             R"({"prompt":"What does Bob own?","response":"A lamp."})"
                             "\n");
    write("recipe.yaml", "stage: sft\nmodel_name_or_path: DIR\ndataset: questions.jsonl\noutput_dir: out/b\nfinetuning_type: lora\nlora_rank: 4\nlora_target: all\n"
                         "cutoff_len: 32\nper_device_train_batch_size: 1\nmax_steps: 2\nlearning_rate: 1e-3\nplot_loss: true\n");
    write("input", "Who are you?\n\n");
    for (const char* there : {"examples", "benchmarks"}) fs::create_symlink(source / there, folder / there);
    fs::create_directories(folder / "out/demo/world");
    fs::copy_file(folder / "questions.jsonl", folder / "out/demo/world/questions_train.jsonl");
  }
  void runs(const std::string& command) const {
    const Answer a = thimble(command + " < input");
    EXPECT_EQ(a.code, 0) << "thimble " << command << "\n" << a.text;
    EXPECT_NE(a.text, "") << command;
  }
};

TEST_F(Documents, EveryCommandRuns) {
  runs("init config.json --out kept --seed 2");
  runs("init config.json --out out/demo/base");
  std::set<std::string> seen;
  for (const Page& page : pages({"docs"})) {
    SCOPED_TRACE(page.name);
    for (const Block& block : page.blocks) {
      std::vector<std::string> others;
      const auto commands = commands_of(block, others);
      if (!block.language.empty()) {
        EXPECT_TRUE(commands.empty() || block.language.starts_with("sh not run: ")) << commands[0] << "\nstands in a block whose language is '" << block.language << "'";
        EXPECT_TRUE(block.language == "text" || std::regex_match(block.language, std::regex("sh not run: .{5,}"))) << block.language << ": text, or sh not run: and why";
        continue;
      }
      EXPECT_TRUE(others.empty()) << others[0] << "\nis no command of ours: say why it does not run here (```sh not run: ...), or that it is none (```text)";
      for (const std::string& command : commands) {
        const std::string name = command.substr(0, command.find(' '));
        seen.insert(name);
        if (name == "init") fs::remove_all(folder / "DIR");  // it is written where the documents name it
        else if (!fs::exists(folder / "DIR")) fs::copy(folder / "kept", folder / "DIR", fs::copy_options::recursive);
        runs(command);
      }
    }
  }
  const std::string help = thimble("--help").text;
  const auto subcommands = found(help.substr(std::min(help.size(), help.find("\nSubcommands:"))), "\n  ([a-z]+) ");
  EXPECT_GE(subcommands.size(), 12U) << help;
  for (const auto& name : subcommands) EXPECT_EQ(seen.count(name), 1U) << name << " stands in no document";
  for (const char* written : {"out/a/adapter_model.safetensors", "out/a/adapter_config.json", "out/a/trainer_log.jsonl", "out/a/training_loss.png", "DIR/model.safetensors",
                              "DIR4/model.safetensors", "DIR16/model.safetensors"})
    EXPECT_TRUE(fs::exists(folder / written)) << written;
}

// One point of each recipe's plans, so that the test is quick: where it fits, the whole search finds it or something faster.
TEST_F(Documents, EveryRecipesCommandsRun) {
  for (const auto& entry : fs::directory_iterator(source / "examples")) {
    if (entry.path().extension() != ".yaml") continue;
    SCOPED_TRACE(entry.path());
    int plans = 0;
    for (const auto& line : found(read_text(entry.path()), "\n#   thimble ([^\n]+)")) {
      const std::string command = without_comment(line);
      const bool plan = command.starts_with("plan ");
      plans += plan;
      runs(command + (plan ? " threads=1 save=recompute gradient_accumulation_steps=1" : ""));
    }
    EXPECT_GE(plans, 1) << "the command that plans it stands at its top";
  }
}

// The tests of a room as gtest names them; of a parameter's each by its first.
std::vector<std::string> tests_of(const std::string& room) {
  std::string text;
  for (const auto& entry : fs::directory_iterator(source / "tests" / room))
    if (entry.path().extension() == ".cpp") text += read_text(entry.path());
  std::vector<std::string> names;
  std::multimap<std::string, std::string> prefixes;
  const std::regex instance(R"(INSTANTIATE_TEST_SUITE_P\(\s*(\w+),\s*(\w+))"), test(R"(\nTEST(_F|_P)?\(\s*(\w+),\s*(\w+))");
  for (auto m = std::sregex_iterator(text.begin(), text.end(), instance); m != std::sregex_iterator(); ++m) prefixes.emplace((*m)[2], (*m)[1]);
  for (auto m = std::sregex_iterator(text.begin(), text.end(), test); m != std::sregex_iterator(); ++m) {
    const std::string suite = (*m)[2], name = suite + "." + (*m)[3].str();
    if ((*m)[1] != "_P") names.push_back(name);
    const auto [begin, end] = prefixes.equal_range(suite);
    for (auto p = begin; p != end; ++p) names.push_back(p->second + "/" + name + "/0");
  }
  return names;
}

TEST_F(Documents, WhatTheyNameIsThere) {
  const std::string makefile = "\n" + read_text(source / "Makefile");
  std::map<std::string, std::string> help;  // of each command
  const auto check_span = [&](const std::string& span) {
    for (const auto& path : found(" " + span, R"([ =]((?:tools|tests|benchmarks|examples|docs|src)/[\w./-]*\w))")) EXPECT_TRUE(fs::exists(source / path)) << path << " is not there: " << span;
    for (const auto& target : found(" " + span, R"( make ([\w-]+))")) EXPECT_NE(makefile.find("\n" + target + ":"), makefile.npos) << "no such target: " << span;
    for (const auto& room : found(" " + span, R"([ /](\w+)_tests)")) {
      const auto tests = tests_of(room);
      EXPECT_FALSE(tests.empty()) << span;
      for (const auto& filter : found(span, R"(--gtest_filter='?([^' -]+))")) {
        std::istringstream patterns(filter);
        for (std::string pattern; std::getline(patterns, pattern, ':');)
          EXPECT_TRUE(std::any_of(tests.begin(), tests.end(), [&](const auto& t) { return ::fnmatch(pattern.c_str(), t.c_str(), 0) == 0; })) << "no test is named so: " << span;
      }
    }
    for (const auto& command : found(" " + span, R"([ /]thimble ([a-z]+))")) {
      if (!help.count(command)) {
        const Answer a = thimble(command + " --help");
        EXPECT_NE(a.text.find(" " + command + " [OPTIONS]"), std::string::npos) << "no such command: " << span;
        help[command] = a.text;
      }
      for (const auto& option : found(span, R"( (--[a-z][\w-]*))")) EXPECT_NE(help[command].find(option), std::string::npos) << "no such option: " << span;
    }
  };
  size_t spans = 0;
  for (const Page& page : pages({"docs", "benchmarks", "tests/golden"})) {
    SCOPED_TRACE(page.name);
    for (const auto& span : found(page.text, "`([^`\n]+)`")) check_span(span), ++spans;
    for (const Block& block : page.blocks)
      if (!block.language.empty())
        for (const auto& line : block.lines) check_span(without_comment(line));
  }
  EXPECT_GT(spans, 100U);
}

}  // namespace
}  // namespace thimble::cli
