// Learning rates beside those that transformers 5.23.0 (get_scheduler, on torch 2.15.0) printed for the same settings.
#include "train/schedule.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/file.h"
#include "golden_folder.h"
#include "train/options.h"

namespace thimble::train {
namespace {

TEST(Schedule, EqualsTransformers) {
  struct Case { ScheduleKind kind; int64_t warmup, total; double peak; std::vector<double> rates; };
  const Case cases[] = {
      {ScheduleKind::linear, 3, 10, 5e-05, {0.0, 1.6666666666666667e-05, 3.3333333333333335e-05, 5e-05, 4.2857142857142856e-05, 3.571428571428572e-05, 2.857142857142857e-05,
                                            2.1428571428571428e-05, 1.4285714285714285e-05, 7.142857142857143e-06, 0.0, 0.0}},
      {ScheduleKind::linear, 0, 7, 0.0001, {0.0001, 8.571428571428571e-05, 7.142857142857143e-05, 5.714285714285714e-05, 4.2857142857142856e-05, 2.857142857142857e-05,
                                            1.4285714285714285e-05, 0.0}},
      {ScheduleKind::cosine, 3, 10, 0.0002, {0.0, 6.666666666666667e-05, 0.00013333333333333334, 0.0002, 0.0001900968867902419, 0.00016234898018587337, 0.00012225209339563145,
                                             7.774790660436858e-05, 3.7651019814126654e-05, 9.903113209758096e-06, 0.0, 9.903113209758086e-06}},
      {ScheduleKind::cosine, 0, 5, 0.001, {0.001, 0.0009045084971874737, 0.0006545084971874737, 0.00034549150281252633, 9.549150281252633e-05, 0.0}},
      {ScheduleKind::constant, 4, 10, 5e-05, {5e-05, 5e-05, 5e-05}},
      {ScheduleKind::constant_with_warmup, 4, 10, 0.0003, {0.0, 7.5e-05, 0.00015, 0.000225, 0.0003, 0.0003}},
      {ScheduleKind::linear, 10, 10, 0.0001, {0.0, 1e-05, 2e-05, 3e-05, 4e-05, 5e-05, 6e-05, 7e-05, 8e-05, 9e-05, 0.0}},
      {ScheduleKind::cosine, 12, 10, 0.0001, {0.0, 8.333333333333334e-06, 1.6666666666666667e-05, 2.5e-05, 3.3333333333333335e-05, 4.166666666666667e-05, 5e-05,
                                              5.833333333333334e-05, 6.666666666666667e-05, 7.500000000000001e-05, 8.333333333333334e-05, 9.166666666666667e-05, 0.0001, 0.0}},
  };
  for (const Case& c : cases)
    for (size_t step = 0; step < c.rates.size(); ++step)
      EXPECT_NEAR(learning_rate({c.kind, c.peak, c.warmup, c.total}, int64_t(step)), c.rates[step], 1e-15 * c.peak + 1e-14 * c.rates[step])
          << "kind " << int(c.kind) << ", warmup " << c.warmup << ", step " << step;
}

// Every kind with its arguments, over all steps and a few beyond (tests/golden/optim.py).
TEST(Schedule, EveryKindEqualsTransformers) {
  const auto path = golden_folder() / "schedules.json";
  const Json golden = parse_json(read_text(path), path.string());
  for (const Json& c : golden["cases"]) {
    SCOPED_TRACE(c["name"].get<std::string>() + " " + c["kwargs"].dump());
    TrainOptions o;
    ASSERT_TRUE(thimble::assign(o.lr_scheduler_type, c["name"]));
    ASSERT_TRUE(assign(o.lr_scheduler_kwargs, c["kwargs"]));
    o.learning_rate = golden["peak"];
    o.warmup_steps = c["warmup"];
    const Schedule schedule = o.schedule(c["total"]);
    int64_t step = 0;
    for (const Json& rate : c["rates"]) {
      EXPECT_NEAR(learning_rate(schedule, step), rate.get<double>(), 1e-14 * o.learning_rate) << "step " << step;
      ++step;
    }
  }
}

TEST(Schedule, ArgumentsAreCheckedByKind) {
  const auto schedule = [](ScheduleKind kind, const char* arguments) {
    TrainOptions o;
    o.lr_scheduler_type = kind;
    EXPECT_TRUE(assign(o.lr_scheduler_kwargs, Json(arguments)));
    return o.schedule(100);
  };
  EXPECT_EQ(schedule(ScheduleKind::polynomial, R"({"power": 3})").power, 3);
  EXPECT_EQ(schedule(ScheduleKind::warmup_stable_decay, "{}").stable, 33);  // LLaMA-Factory's third
  EXPECT_THROW(schedule(ScheduleKind::linear, R"({"power": 3})"), Error);
  EXPECT_THROW(schedule(ScheduleKind::polynomial, R"({"power": "x"})"), Error);
  EXPECT_THROW(schedule(ScheduleKind::warmup_stable_decay, R"({"decay_type": "steep"})"), Error);
  EXPECT_THROW(schedule(ScheduleKind::cosine, R"({"nonsense": 1})"), Error);
}

TEST(Schedule, WarmupStepsOrTheCeilingOfAShare) {
  EXPECT_EQ(warmup_steps(0, 0.1, 100), 10);
  EXPECT_EQ(warmup_steps(0, 0.1, 101), 11);
  EXPECT_EQ(warmup_steps(0, 0.03, 10), 1);
  EXPECT_EQ(warmup_steps(0, 0, 10), 0);
  EXPECT_EQ(warmup_steps(7, 0.5, 100), 7);
}

}  // namespace
}  // namespace thimble::train
