// Learning rates beside those that transformers 5.23.0 (get_scheduler, on torch 2.15.0) printed for the same settings.
#include "train/schedule.h"

#include <gtest/gtest.h>

#include <vector>

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

TEST(Schedule, WarmupStepsOrTheCeilingOfAShare) {
  EXPECT_EQ(warmup_steps(0, 0.1, 100), 10);
  EXPECT_EQ(warmup_steps(0, 0.1, 101), 11);
  EXPECT_EQ(warmup_steps(0, 0.03, 10), 1);
  EXPECT_EQ(warmup_steps(0, 0, 10), 0);
  EXPECT_EQ(warmup_steps(7, 0.5, 100), 7);
}

}  // namespace
}  // namespace thimble::train
