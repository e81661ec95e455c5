// Runs that end too soon: killed at any moment, also inside a save; stopped by a signal; on a disk that is full; with files that were
// damaged. Whatever happens, the run that goes on gives the numbers of the run that was never disturbed.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <thread>

#include "base/philox.h"
#include "cli/program.h"

namespace thimble::cli {
namespace {

using namespace std::chrono_literals;

std::vector<Json> lines(const std::string& text) {
  std::vector<Json> all;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) all.push_back(parse_json(line, "line"));
  return all;
}

class Checkpoints : public Program {
 protected:
  // Five rows in micro-batches of two, two of them a step: the second step of an epoch is half of one micro-batch.
  Checkpoints() {
    make_model(), make_data();
    write("rows.jsonl", read("rows.jsonl") + R"({"prompt": "and you", "response": "a needle"})" + "\n");
  }
  static std::string tuning(const std::string& out, const std::string& more) {
    return "train model_name_or_path=model dataset=rows.jsonl threads=1 cutoff_len=64 vram=64MiB ram=512MiB per_device_train_batch_size=2 "
           "gradient_accumulation_steps=2 "
           "lora_rank=4 learning_rate=1e-2 logging_steps=1 lr_scheduler_type=cosine output_dir=" +
           out + " " + more;
  }
  // What does not depend on the clock, of every line.
  std::vector<std::string> numbers(const std::string& out) const {
    std::vector<std::string> all;
    for (Json line : lines(read(out + "/trainer_log.jsonl"))) {
      for (const char* of_clock : {"elapsed_time", "remaining_time", "throughput"}) line.erase(of_clock);
      all.push_back(line.dump());
    }
    return all;
  }
  std::vector<std::string> history(const std::string& file) const {
    std::vector<std::string> all;
    for (Json entry : json(file)["log_history"]) {
      for (const char* of_clock : {"eval_runtime", "eval_samples_per_second"}) entry.erase(of_clock);
      all.push_back(entry.dump());
    }
    return all;
  }
  std::vector<std::string> folders(const std::string& out) const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(folder / out))
      if (entry.is_directory()) all.push_back(entry.path().filename().string());
    std::sort(all.begin(), all.end());
    return all;
  }
  void expect_same_run(const std::string& a, const std::string& b, int64_t last, const std::string& result = "adapter_model.safetensors") const {
    EXPECT_EQ(numbers(a), numbers(b));
    EXPECT_EQ(history(a + "/trainer_state.json"), history(b + "/trainer_state.json"));
    EXPECT_EQ(read(a + "/" + result), read(b + "/" + result));
    for (const std::string& file : {std::string("training_state.safetensors"), result})
      EXPECT_EQ(read(fmt::format("{}/checkpoint-{}/{}", a, last, file)), read(fmt::format("{}/checkpoint-{}/{}", b, last, file)));
  }
  void survives_kills(const std::string& what, int most, const std::string& result);
  // Starts the program without waiting for it; its output goes to the file `output`.
  pid_t start(const std::string& arguments) const {
    std::vector<std::string> words{THIMBLE_BINARY};
    std::istringstream in(arguments);
    for (std::string w; in >> w;) words.push_back(w);
    std::vector<char*> argv;
    for (auto& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    const std::string in_folder = folder.string(), output = (folder / "output").string();
    const pid_t child = ::fork();
    if (child != 0) return child;
    const int fd = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(fd, 1), ::dup2(fd, 2);
    if (::chdir(in_folder.c_str()) == 0) ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  static int exit_code(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  static bool has_ended(pid_t child) {
    siginfo_t info{};
    return ::waitid(P_PID, id_t(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child;
  }
  bool is_saving(const std::string& out) const {
    std::error_code ignored;
    for (auto e = fs::directory_iterator(folder / out, ignored); e != fs::directory_iterator(); e.increment(ignored))
      if (e->path().extension() == ".partial") return true;
    return false;
  }
};

// THIMBLE_KILLS sets how often; the whole sweep is 50.
void Checkpoints::survives_kills(const std::string& what, int most, const std::string& result) {
  const int steps = 60;
  const std::string how =
      fmt::format("max_steps={} save_steps=1 save_total_limit=2 eval_dataset=rows.jsonl eval_strategy=steps eval_steps=4 {}", steps, what);
  const auto began = std::chrono::steady_clock::now();
  const Answer whole = thimble(tuning("whole", how));
  auto longest = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began) / 3;
  ASSERT_EQ(whole.code, 0) << whole.text;
  if (const char* wanted = std::getenv("THIMBLE_KILLS")) most = std::atoi(wanted);
  Draws draws{uint64_t(::getpid()), 1, 0};
  int kills = 0, in_a_save = 0, finished = 0, first_steps = 0;
  std::string out = "killed-0";
  while (kills < most) {
    // Half of the kills wait for a save to be under way; the others come at a moment of their own, start and end of the run included.
    const bool in_save = draws.below(2) == 0;
    const auto wait = std::chrono::microseconds(int64_t(draws.below(uint64_t(longest.count()))) + 1);
    const pid_t child = start(tuning(out, how) + " resume_from_checkpoint=true");
    const auto started = std::chrono::steady_clock::now();
    while (!has_ended(child) && std::chrono::steady_clock::now() - started < wait) std::this_thread::sleep_for(100us);
    while (in_save && !has_ended(child) && !is_saving(out)) std::this_thread::sleep_for(20us);
    const bool over = has_ended(child);
    if (!over) ::kill(child, SIGKILL), ++kills;
    const int code = exit_code(child);
    const std::string text = read("output");
    in_a_save += is_saving(out);
    first_steps += text.find("there is no checkpoint") != text.npos;
    if (code == -SIGKILL) continue;
    ASSERT_EQ(code, 0) << text;
    expect_same_run("whole", out, steps, result);
    out = fmt::format("killed-{}", ++finished);
    longest = std::max<std::chrono::microseconds>(longest / 2, 5ms);  // a machine that is faster now
  }
  const Answer last = thimble(tuning(out, how) + " resume_from_checkpoint=true");
  ASSERT_EQ(last.code, 0) << last.text;
  EXPECT_FALSE(last.says("passed over")) << last.text;
  expect_same_run("whole", out, steps, result);
  EXPECT_EQ(folders(out), (std::vector<std::string>{fmt::format("checkpoint-{}", steps - 1), fmt::format("checkpoint-{}", steps)}));
  for (const auto& entry : fs::directory_iterator(folder / out))
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
  std::printf("%d kills, %d of them inside a save, %d before a first checkpoint or at a start; %d runs came to their end\n", kills,
              in_a_save, first_steps, finished + 1);
}

TEST_F(Checkpoints, KilledAtAnyMomentTheRunGivesTheSameNumbers) { survives_kills("", 12, "adapter_model.safetensors"); }
// Updates that wait for the next forward, and what is drawn to round them.
TEST_F(Checkpoints, KilledAtAnyMomentARunInBf16GivesTheSameNumbers) {
  survives_kills("finetuning_type=full pure_bf16=true optim=adamw_8bit resident_layers=0", 4, "model.safetensors");
}

TEST_F(Checkpoints, ASignalSavesAndEndsWith75) {
  const std::string how = "max_steps=4000 save_strategy=no logging_steps=1";
  for (const int signal : {SIGTERM, SIGINT}) {
    const std::string out = fmt::format("out-{}", signal);
    const pid_t child = start(tuning(out, how));
    while (!has_ended(child) && (!fs::exists(folder / out / "trainer_log.jsonl") || fs::file_size(folder / out / "trainer_log.jsonl") == 0))
      std::this_thread::sleep_for(1ms);
    ::kill(child, signal);
    ASSERT_EQ(exit_code(child), 75) << read("output");
    const auto step = int64_t(lines(read(out + "/trainer_log.jsonl")).size());
    EXPECT_LT(step, 4000);
    EXPECT_EQ(folders(out), (std::vector<std::string>{fmt::format("checkpoint-{}", step)}));
    EXPECT_NE(read("output").find(fmt::format("thimble train {}/args.json resume_from_checkpoint=true", out)), std::string::npos)
        << read("output");
    // The line that it printed, a few steps further: a shorter run with the same rates so far would be another run.
    const pid_t again = start(fmt::format("train {}/args.json resume_from_checkpoint=true", out));
    while (!has_ended(again) && lines(read(out + "/trainer_log.jsonl")).size() < size_t(step) + 5) std::this_thread::sleep_for(1ms);
    ::kill(again, signal);
    ASSERT_EQ(exit_code(again), 75) << read("output");
    const auto all = lines(read(out + "/trainer_log.jsonl"));
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i]["current_steps"], i + 1);
  }
  EXPECT_EQ(numbers("out-2")[2], numbers("out-15")[2]);
}

TEST_F(Checkpoints, ASecondSignalEndsAtOnce) {
  std::string many;
  for (int i = 0; i < 40000; ++i)
    many += R"({"prompt": "say ab", "response": "ab ab"})"
            "\n";
  write("many.jsonl", many);
  const pid_t child = start(tuning(
      "out",
      "max_steps=4000 save_strategy=no eval_dataset=many.jsonl eval_strategy=steps eval_steps=1"));  // a long way from signal to save
  const auto until = [&](const std::function<bool()>& seen) {
    while (!has_ended(child) && !seen()) std::this_thread::sleep_for(1ms);
  };
  until([&] { return fs::exists(folder / "out/trainer_log.jsonl") && fs::file_size(folder / "out/trainer_log.jsonl") > 0; });
  ::kill(child, SIGINT);
  until([&] { return read("output").find("once more to stop at once") != std::string::npos; });
  ::kill(child, SIGTERM);
  EXPECT_EQ(exit_code(child), -SIGTERM) << read("output");
  EXPECT_TRUE(folders("out").empty());
}

TEST_F(Checkpoints, AFullDiskKeepsTheLastOneAndTrainingGoesOn) {
  ASSERT_EQ(thimble(tuning("whole", "max_steps=6 save_steps=2")).code, 0);
  // The limit on files lies between the adapter's and the states' size: every save fails in its middle, and the result can be written.
  const auto states = fs::file_size(folder / "whole/checkpoint-2/training_state.safetensors"),
             adapter = fs::file_size(folder / "whole/adapter_model.safetensors");
  ASSERT_GT(states, adapter + 4096);
  fs::create_directories(folder / "out");
  fs::copy(folder / "whole/checkpoint-2", folder / "out/checkpoint-2");
  const std::string command =
      fmt::format("cd '{}' && ulimit -f {} && '{}' {} > output 2>&1", folder.string(), (states - 1024) / 1024, THIMBLE_BINARY,
                  tuning("out", "max_steps=6 save_steps=2 save_total_limit=1 resume_from_checkpoint=true"));
  const int status = std::system(("bash -c \"" + command + "\"").c_str());
  const std::string text = read("output");
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << text;
  for (const int step : {4, 6})
    EXPECT_NE(text.find(fmt::format("warning: out/checkpoint-{} is not saved: cannot write a file (File too large)", step)), text.npos)
        << text;
  EXPECT_EQ(folders("out"), (std::vector<std::string>{"checkpoint-2"})) << "the last good one stays, and no half one";
  EXPECT_EQ(numbers("out"), numbers("whole"));
  EXPECT_EQ(read("out/adapter_model.safetensors"), read("whole/adapter_model.safetensors"));
  // With room again it saves again.
  ASSERT_EQ(thimble(tuning("out", "max_steps=6 save_steps=2 save_total_limit=1 resume_from_checkpoint=true")).code, 0);
  EXPECT_EQ(folders("out"), (std::vector<std::string>{"checkpoint-6"}));
}

TEST_F(Checkpoints, DamagedOnesAreNamedAndPassedOver) {
  const std::string how = "max_steps=8 save_steps=2";
  ASSERT_EQ(thimble(tuning("whole", how)).code, 0);
  ASSERT_EQ(thimble(tuning("out", how)).code, 0);
  fs::resize_file(folder / "out/checkpoint-8/training_state.safetensors", 1000);
  fs::resize_file(folder / "out/checkpoint-6/manifest.json", 100);
  fs::create_directories(folder / "out/checkpoint-9.partial");
  Answer a = thimble(tuning("out", how + " resume_from_checkpoint=true"));
  EXPECT_EQ(a.code, 0) << a.text;
  EXPECT_TRUE(a.says("out/checkpoint-8 is passed over: training_state.safetensors has 1000 bytes")) << a.text;
  EXPECT_TRUE(a.says("out/checkpoint-6 is passed over: manifest.json")) << a.text;
  EXPECT_TRUE(a.says("going on from out/checkpoint-4: step 4 of 8")) << a.text;
  expect_same_run("whole", "out", 8);
  EXPECT_EQ(folders("out").size(), 4u) << "the damaged ones were replaced, the half one is gone";
  std::string bytes = read("out/checkpoint-6/adapter_model.safetensors");
  bytes[bytes.size() / 2] ^= 1;
  write("out/checkpoint-6/adapter_model.safetensors", bytes);
  a = thimble(tuning("out", how + " resume_from_checkpoint=out/checkpoint-6"));
  EXPECT_EQ(a.code, 3) << a.text;
  EXPECT_TRUE(a.says("adapter_model.safetensors is not what was written")) << a.text;
  for (const int step : {2, 4, 6, 8}) fs::remove(folder / fmt::format("out/checkpoint-{}/manifest.json", step));
  a = thimble(tuning("out", how + " resume_from_checkpoint=true"));
  EXPECT_EQ(a.code, 3) << a.text;
  EXPECT_TRUE(a.says("a checkpoint cannot be used")) << a.text;
}

TEST_F(Checkpoints, TheNewestAndTheBestAreKept) {
  // Answers that training first makes likelier, with all that is made of letters, and then less: the loss falls and rises in every arithmetic.
  write("others.jsonl", R"({"prompt": "say ab", "response": "e"}
{"prompt": "say c", "response": "ee"}
{"prompt": "and you", "response": "thimbles"}
)");
  const int steps = 14;
  const std::string how =
      fmt::format("max_steps={} eval_dataset=others.jsonl eval_strategy=steps eval_steps=1 learning_rate=2e-2 lr_scheduler_type=constant ", steps);
  ASSERT_EQ(thimble(tuning("all", how + "save_steps=1")).code, 0);
  std::vector<double> losses;
  for (const Json& line : lines(read("all/trainer_log.jsonl")))
    if (line.contains("eval_loss")) losses.push_back(line["eval_loss"]);
  ASSERT_EQ(losses.size(), size_t(steps));
  const auto best = std::min_element(losses.begin(), losses.end()) - losses.begin() + 1;
  ASSERT_LT(best, steps) << "the last one is not the best, or this shows nothing";
  EXPECT_EQ(folders("all").size(), size_t(steps));
  Answer a = thimble(tuning(
      "two", how + "save_steps=1 save_total_limit=2 load_best_model_at_end=true metric_for_best_model=eval_loss greater_is_better=false"));
  ASSERT_EQ(a.code, 0) << a.text;
  EXPECT_EQ(folders("two").size(), 2u);
  for (const auto step : {int64_t(best), int64_t(steps)}) EXPECT_TRUE(fs::exists(folder / fmt::format("two/checkpoint-{}", step))) << step;
  EXPECT_EQ(read("two/adapter_model.safetensors"), read(fmt::format("all/checkpoint-{}/adapter_model.safetensors", best)));
  EXPECT_EQ(json("two/trainer_state.json")["best_model_checkpoint"], fmt::format("two/checkpoint-{}", best));
  EXPECT_EQ(json("two/trainer_state.json")["best_metric"], losses[size_t(best) - 1]);
  a = thimble(tuning("best", how + "save_strategy=best save_total_limit=1"));
  ASSERT_EQ(a.code, 0) << a.text;
  EXPECT_EQ(folders("best"), (std::vector<std::string>{fmt::format("checkpoint-{}", best)}));
  EXPECT_NE(read("best/adapter_model.safetensors"), read("two/adapter_model.safetensors"))
      << "the result is the last step where the best is not asked for";
  a = thimble(tuning("epochs", "num_train_epochs=3 save_strategy=epoch"));
  ASSERT_EQ(a.code, 0) << a.text;
  EXPECT_EQ(folders("epochs"), (std::vector<std::string>{"checkpoint-2", "checkpoint-4", "checkpoint-6"}));
  ASSERT_EQ(thimble(tuning("share", "max_steps=8 save_steps=0.5")).code, 0);
  EXPECT_EQ(folders("share"), (std::vector<std::string>{"checkpoint-4", "checkpoint-8"}));
}

TEST_F(Checkpoints, ACheckpointIsAnAdapterThatOthersLoad) {
  ASSERT_EQ(thimble(tuning("out", "max_steps=4 save_steps=2")).code, 0);
  for (const char* adapter : {"out/checkpoint-2", "out"}) {
    const Answer a = thimble(fmt::format("eval --model model --adapter {} --data rows.jsonl --threads 1 --no-generate", adapter));
    EXPECT_EQ(a.code, 0) << a.text;
  }
  EXPECT_EQ(read("out/checkpoint-4/adapter_model.safetensors"), read("out/adapter_model.safetensors"));
  EXPECT_EQ(json("out/checkpoint-2/trainer_state.json")["global_step"], 2);
}

// All weights, in a folder of bf16: the checkpoint is a model, and the bits that bf16 lacks lie beside it.
TEST_F(Checkpoints, FullTuningInSixteenBits) {
  ASSERT_EQ(thimble("init shape --out half --seed 3 --std 0.2 --dtype bfloat16").code, 0);
  const std::string how = "model_name_or_path=half finetuning_type=full max_steps=6 save_steps=3 learning_rate=1e-3";
  ASSERT_EQ(thimble(tuning("whole", how)).code, 0);
  fs::create_directories(folder / "out");
  fs::copy(folder / "whole/checkpoint-3", folder / "elsewhere");
  const Answer a = thimble(tuning("out", how + " overwrite_output_dir=true resume_from_checkpoint=elsewhere"));
  ASSERT_EQ(a.code, 0) << a.text;
  EXPECT_EQ(numbers("out"), numbers("whole"));
  for (const char* file : {"checkpoint-6/training_state.safetensors", "checkpoint-6/model.safetensors", "model.safetensors"})
    EXPECT_EQ(read(std::string("out/") + file), read(std::string("whole/") + file)) << file;
  EXPECT_EQ(thimble("generate --model out/checkpoint-6 --prompt a --max-new-tokens 2 --threads 1").code, 0);
}

TEST_F(Checkpoints, AnotherRunIsRefusedAndWhatChangesNoNumberIsNot) {
  const std::string how = "max_steps=4 save_steps=2";
  ASSERT_EQ(thimble(tuning("whole", how)).code, 0);
  const std::string args = read("whole/args.json");
  const auto resumed = [&](const std::string& more) {
    return thimble(tuning("whole", how + " resume_from_checkpoint=whole/checkpoint-2 " + more));
  };
  for (const auto& [change, key] : {std::pair{"learning_rate=2e-2", "learning_rate"},
                                    {"lora_alpha=3", "lora_alpha"},
                                    {"seed=7", "seed"},
                                    {"cutoff_len=32", "cutoff_len"},
                                    {"optim=adamw_8bit", "optim"},
                                    {"lora_rank=8", "lora_rank"},
                                    {"per_device_train_batch_size=1", "per_device_train_batch_size"}}) {
    const Answer a = resumed(change);
    EXPECT_EQ(a.code, 2) << change << a.text;
    EXPECT_TRUE(a.says(fmt::format("the checkpoint is of a run with another '{}'", key))) << a.text;
  }
  EXPECT_EQ(read("whole/args.json"), args) << "a run that is refused writes nothing";
  write("more.jsonl", read("rows.jsonl") + R"({"prompt": "b", "response": "c"})" + "\n");
  Answer a = resumed("dataset=more.jsonl");
  EXPECT_EQ(a.code, 2) << a.text;
  EXPECT_TRUE(a.says("the checkpoint is of a run on other data")) << a.text;
  ASSERT_EQ(thimble("init shape --out other --seed 4 --std 0.2").code, 0);
  a = resumed("model_name_or_path=other");
  EXPECT_EQ(a.code, 2) << a.text;
  EXPECT_TRUE(a.says("the checkpoint is of a run on another base model")) << a.text;
  a = resumed("max_steps=1");
  EXPECT_EQ(a.code, 2) << a.text;
  EXPECT_TRUE(a.says("beyond the end of the run")) << a.text;
  // A smaller budget, another place for everything, the model and the data under other names.
  fs::rename(folder / "model", folder / "moved");
  fs::rename(folder / "rows.jsonl", folder / "renamed.jsonl");
  a = thimble(tuning("out", how + " model_name_or_path=moved dataset=renamed.jsonl optim=paged_adamw_32bit vram=700KiB save=recompute "
                                  "resident_layers=0 resume_from_checkpoint=whole/checkpoint-2"));
  EXPECT_EQ(a.code, 0) << a.text;
  EXPECT_EQ(numbers("out"), numbers("whole"));
}

TEST_F(Checkpoints, WhatThereIsToResume) {
  const std::string how = "max_steps=4 save_steps=2";
  Answer a = thimble(tuning("out", how + " resume_from_checkpoint=true"));
  EXPECT_EQ(a.code, 0) << a.text;
  EXPECT_TRUE(a.says("there is no checkpoint in out; the run begins at the beginning")) << a.text;
  const auto before = numbers("out");
  a = thimble(tuning("out", how + " resume_from_checkpoint=true"));
  EXPECT_EQ(a.code, 0) << a.text;
  EXPECT_TRUE(a.says("nothing is left to train") && a.says("raise max_steps or num_train_epochs")) << a.text;
  EXPECT_EQ(numbers("out"), before);
  a = thimble(tuning("out", "save_steps=2 max_steps=6 resume_from_checkpoint=true"));
  EXPECT_EQ(a.code, 0) << a.text;
  EXPECT_TRUE(a.says("max_steps was 4 and is 6")) << a.text;
  EXPECT_EQ(numbers("out").size(), 6u);
  a = thimble(tuning("out", how));
  EXPECT_EQ(a.code, 2) << a.text;
  EXPECT_TRUE(a.says("resume_from_checkpoint: true to go on with it")) << a.text;
  a = thimble(tuning("out", how + " resume_from_checkpoint=nowhere"));
  EXPECT_EQ(a.code, 3) << a.text;
  EXPECT_TRUE(a.says("manifest.json: No such file or directory")) << a.text;
}

}  // namespace
}  // namespace thimble::cli
