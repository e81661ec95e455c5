// The line of a terminal at every width, and plain lines where there is none.
#include "train/progress.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

namespace thimble::train {
namespace {

const StepReport report{.step = 120, .total_steps = 500, .epoch = 0.72, .loss = 1.23456, .learning_rate = 4.8e-5, .grad_norm = 0.9123, .seconds = 83, .tokens = 100000,
                        .tokens_per_second = 1204.6};
const std::vector<TierUse> tiers{{Tier::device, int64_t(1.2 * (1 << 30)), int64_t{3} << 29}, {Tier::pinned, 100 << 20, 200 << 20}};

TEST(Progress, AWideLineHasEverything) {
  EXPECT_EQ(progress_line(report, tiers, 200),
            "120/500   24%  [=====>                  ]  01:23<04:22  loss 1.2346  lr 4.80e-05  norm 0.912  1205 tok/s  device 1.20/1.50 GiB  pinned 100.0/200.0 MiB");
}

TEST(Progress, TheLineFitsEveryWidthAndLosesTheLeastWantedFirst) {
  for (int width = 0; width <= 200; ++width) EXPECT_LE(int(progress_line(report, tiers, width).size()), width) << width;
  const std::string at100 = progress_line(report, tiers, 100);
  EXPECT_EQ(at100, "120/500   24%  01:23<04:22  loss 1.2346  lr 4.80e-05  norm 0.912  1205 tok/s  device 1.20/1.50 GiB");
  EXPECT_EQ(progress_line(report, tiers, 30), "120/500   24%  loss 1.2346");
  EXPECT_EQ(progress_line(report, tiers, 8), "120/500");
  EXPECT_EQ(progress_line(report, tiers, 4), "120/");
}

TEST(Progress, TheBarBeginsEmptyAndEndsFull) {
  StepReport r = report;
  r.step = 500;
  EXPECT_NE(progress_line(r, {}, 150).find("100%  [========================]"), std::string::npos);
  r.step = 0, r.total_steps = 0;
  EXPECT_NE(progress_line(r, {}, 150).find("  0%  [>                       ]"), std::string::npos);
}

TEST(Progress, APlainLineHasEverything) {
  EXPECT_EQ(plain_line(report, tiers),
            "step 120/500 (24.0%)  01:23<04:22  loss 1.2346  lr 4.800e-05  grad_norm 0.9123  epoch 0.72  1205 tok/s  device 1.20/1.50 GiB  pinned 100.0/200.0 MiB");
}

std::string read_all(int fd) {
  std::string all;
  char buffer[4096];
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  for (ssize_t n; (n = ::read(fd, buffer, sizeof buffer)) > 0;) all.append(buffer, size_t(n));
  return all;
}

TEST(Progress, WithoutATerminalTheFirstTheLastAndEveryNthStep) {
  for (const bool first : {true, false}) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    {
      Progress p({.fd = ends[1], .logging_steps = 4, .first_step = first});
      StepReport r = report;
      r.total_steps = 10;
      for (r.step = 1; r.step <= 10; ++r.step) p.show(r, {});
      p.clear();
    }
    const std::string all = read_all(ends[0]);
    std::vector<std::string> steps;
    for (size_t at = 0; at < all.size(); at = all.find('\n', at) + 1) steps.push_back(all.substr(at, all.find(' ', at + 5) - at));
    std::vector<std::string> expected{"step 1/10", "step 4/10", "step 8/10", "step 10/10"};
    if (!first) expected.erase(expected.begin());
    EXPECT_EQ(steps, expected);
    EXPECT_EQ(all.find('\r'), std::string::npos);
    ::close(ends[0]), ::close(ends[1]);
  }
}

TEST(Progress, OnATerminalOneLineThatRenewsItself) {
  int main_end = -1, terminal = -1;
  winsize size{.ws_row = 24, .ws_col = 61, .ws_xpixel = 0, .ws_ypixel = 0};
  if (::openpty(&main_end, &terminal, nullptr, nullptr, &size) != 0) GTEST_SKIP() << "no pseudo-terminal here";
  {
    Progress p({.fd = terminal, .logging_steps = 1, .first_step = true});
    StepReport r = report;
    r.total_steps = 1000;
    for (r.step = 1; r.step <= 1000; ++r.step) p.show(r, tiers);
    p.clear();
    r.step = 1000;
    p.show(r, tiers);
  }
  const std::string all = read_all(main_end);
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 1) << "the end of the last line";
  EXPECT_LT(std::count(all.begin(), all.end(), '\r'), 100) << "drawn a few times, not a thousand";
  std::string last = all.substr(all.rfind("\r", all.size() - 3) + 1);
  last = last.substr(0, last.find('\033'));
  EXPECT_TRUE(last.starts_with("1000/1000  100%")) << last;
  EXPECT_LE(last.size(), 60u);
  EXPECT_NE(all.find("\r\033[K"), std::string::npos) << "cleared once";
  ::close(main_end), ::close(terminal);
}

TEST(Progress, AReaderThatLeftIsNoError) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[0]);
  const auto before = ::signal(SIGPIPE, SIG_IGN);
  Progress p({.fd = ends[1]});
  EXPECT_NO_THROW(p.show(report, tiers));
  ::signal(SIGPIPE, before);
  ::close(ends[1]);
}

}  // namespace
}  // namespace thimble::train
