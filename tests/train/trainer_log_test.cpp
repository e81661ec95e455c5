// The files that scripts and dashboards read, and what happens when there is no room for them.
#include "train/trainer_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/file.h"
#include "base/log.h"

namespace thimble::train {
namespace {

class TrainerLogTest : public testing::Test {
 protected:
  TrainerLogTest() : dir(fs::temp_directory_path() / ("thimble-log-" + std::to_string(::getpid()))) { fs::create_directories(dir); }
  ~TrainerLogTest() override { fs::remove_all(dir); }
  std::vector<Json> lines() const {
    std::vector<Json> all;
    std::ifstream in(dir / "trainer_log.jsonl");
    for (std::string line; std::getline(in, line);) all.push_back(parse_json(line, "trainer_log.jsonl"));
    return all;
  }
  Json json(const char* name) const { return parse_json(read_text(dir / name), name); }
  fs::path dir;
};

const StepReport tenth{.step = 10, .total_steps = 40, .epoch = 0.25, .loss = 1.25, .learning_rate = 5e-5, .grad_norm = 0.75, .seconds = 61.5, .tokens = 12300};
const EvalReport eval{.step = 20, .total_steps = 40, .epoch = 0.5, .loss = 1.5, .seconds = 100, .eval_seconds = 4, .rows = 12};

TEST_F(TrainerLogTest, ALineAStepWithTheirFieldsOnDiskAtOnce) {
  TrainerLog log(dir);
  log.step(tenth);
  ASSERT_EQ(lines().size(), 1u) << "flushed before the next step";
  EXPECT_EQ(lines()[0].dump(), R"({"current_steps":10,"total_steps":40,"loss":1.25,"lr":5e-05,"grad_norm":0.75,"epoch":0.25,"percentage":25.0,)"
                               R"("elapsed_time":"0:01:01","remaining_time":"0:03:04","throughput":200.0,"total_tokens":12300})");
  log.evaluated(eval);
  EXPECT_EQ(lines()[1].dump(), R"({"current_steps":20,"total_steps":40,"eval_loss":1.5,"epoch":0.5,"percentage":50.0,"elapsed_time":"0:01:40","remaining_time":"0:01:40"})");
  EXPECT_EQ(log.losses(), (std::vector<std::pair<int64_t, double>>{{10, 1.25}}));
  EXPECT_EQ(log.eval_losses(), (std::vector<std::pair<int64_t, double>>{{20, 1.5}}));
}

TEST_F(TrainerLogTest, LossesKeepEveryDigit) {
  TrainerLog log(dir);
  StepReport r = tenth;
  r.loss = 1.0 / 3.0;
  log.step(r);
  EXPECT_EQ(lines()[0]["loss"].get<double>(), 1.0 / 3.0);
}

TEST_F(TrainerLogTest, ANewRunBeginsANewLog) {
  { TrainerLog log(dir); log.step(tenth); }
  TrainerLog log(dir);
  EXPECT_TRUE(lines().empty());
}

TEST_F(TrainerLogTest, TheResultFiles) {
  TrainerLog log(dir);
  log.step(tenth);
  log.evaluated(eval);
  log.finish({.steps = 40, .total_steps = 40, .rows = 320, .tokens = 50000, .batch_size = 2, .epoch = 1, .num_train_epochs = 1, .loss = 1.125, .seconds = 160, .flops = 1e15,
              .logging_steps = 10, .eval_steps = 20});
  EXPECT_EQ(json("train_results.json").dump(), R"({"epoch":1.0,"num_input_tokens_seen":50000,"total_flos":1e+15,"train_loss":1.125,"train_runtime":160.0,)"
                                               R"("train_samples_per_second":2.0,"train_steps_per_second":0.25})");
  EXPECT_EQ(json("eval_results.json").dump(), R"({"epoch":0.5,"eval_loss":1.5,"eval_runtime":4.0,"eval_samples_per_second":3.0})");
  const Json all = json("all_results.json");
  EXPECT_EQ(all["eval_loss"], 1.5);
  EXPECT_EQ(all["train_loss"], 1.125);
  const Json state = json("trainer_state.json");
  EXPECT_EQ(state["global_step"], 40);
  EXPECT_EQ(state["max_steps"], 40);
  EXPECT_EQ(state["log_history"].dump(), R"([{"loss":1.25,"grad_norm":0.75,"learning_rate":5e-05,"epoch":0.25,"step":10},)"
                                         R"({"epoch":0.5,"eval_loss":1.5,"eval_runtime":4.0,"eval_samples_per_second":3.0,"step":20}])");
}

TEST_F(TrainerLogTest, WithoutAnEvaluationThereAreNoEvalResults) {
  TrainerLog log(dir);
  log.finish({.steps = 1, .total_steps = 1});
  EXPECT_FALSE(fs::exists(dir / "eval_results.json"));
  EXPECT_FALSE(json("all_results.json").contains("eval_loss"));
}

TEST_F(TrainerLogTest, AFullDiskCostsAWarningAndNotTheRun) {
  fs::create_symlink("/dev/full", dir / "trainer_log.jsonl");
  fs::create_directories(dir / "trainer_state.json" / "in the way");
  TrainerLog log(dir);
  testing::internal::CaptureStderr();
  for (int i = 0; i < 5; ++i) EXPECT_NO_THROW(log.step(tenth));
  const std::string one = testing::internal::GetCapturedStderr();
  EXPECT_NE(one.find("trainer_log.jsonl (No space left on device); training goes on"), std::string::npos) << one;
  EXPECT_EQ(std::count(one.begin(), one.end(), '\n'), 1) << "once, not with every step";
  EXPECT_NO_THROW(log.finish({.steps = 5, .total_steps = 5}));
  EXPECT_TRUE(fs::exists(dir / "train_results.json")) << "the other files are written";
  EXPECT_EQ(log.losses().size(), 5u);
}

TEST_F(TrainerLogTest, AFolderThatIsGoneCostsAWarningToo) {
  TrainerLog log(dir / "absent");
  EXPECT_NO_THROW(log.step(tenth));
  EXPECT_NO_THROW(log.finish({.steps = 1, .total_steps = 1}));
}

TEST_F(TrainerLogTest, ALossThatIsNoNumberIsStillALine) {
  TrainerLog log(dir);
  StepReport r = tenth;
  r.loss = std::nan("");
  log.step(r);
  EXPECT_TRUE(lines()[0]["loss"].is_null());
}

TEST(Clock, AsPythonWritesIt) {
  EXPECT_EQ(clock_text(0), "0:00:00");
  EXPECT_EQ(clock_text(3661.9), "1:01:01");
  EXPECT_EQ(clock_text(86400), "1 day, 0:00:00");
  EXPECT_EQ(clock_text(2 * 86400 + 59), "2 days, 0:00:59");
  EXPECT_EQ(clock_text(-5), "0:00:00");
  EXPECT_EQ(clock_text(std::nan("")), "0:00:00");
}

TEST(Clock, WhatIsLeft) {
  EXPECT_EQ(seconds_left(30, 3, 10), 70);
  EXPECT_EQ(seconds_left(30, 10, 10), 0);
  EXPECT_EQ(seconds_left(30, 0, 10), 0);
}

}  // namespace
}  // namespace thimble::train
