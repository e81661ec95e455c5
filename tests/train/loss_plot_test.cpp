// The picture: a valid file, curves where they belong, ticks at round numbers.
#include "train/loss_plot.h"

#include <gtest/gtest.h>
#include <png.h>
#include <unistd.h>

#include <cmath>

#include "base/error.h"
#include "base/file.h"

namespace thimble::train {
namespace {

class LossPlotTest : public testing::Test {
 protected:
  LossPlotTest() : dir(fs::temp_directory_path() / ("thimble-plot-" + std::to_string(::getpid()))) { fs::create_directories(dir); }
  ~LossPlotTest() override { fs::remove_all(dir); }
  fs::path dir;
};

struct Picture {
  explicit Picture(const fs::path& path) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_file(&image, path.c_str())) return;
    image.format = PNG_FORMAT_RGB;
    width = int(image.width), height = int(image.height);
    pixels.resize(PNG_IMAGE_SIZE(image));
    if (!png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr)) width = 0;
  }
  // Rows of the column whose colour is within 60 of (r, g, b), their mean; -1 for none.
  double row_of(int x, int r, int g, int b) const {
    double sum = 0;
    int count = 0;
    for (int y = 60; y < height - 70; ++y) {
      const uint8_t* p = &pixels[size_t(y * width + x) * 3];
      if (std::abs(p[0] - r) + std::abs(p[1] - g) + std::abs(p[2] - b) < 60) sum += y, ++count;
    }
    return count ? sum / count : -1;
  }
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;
};

std::vector<LossPoint> falling(int n) {
  std::vector<LossPoint> points;
  for (int i = 1; i <= n; ++i) points.emplace_back(i, 1 + 4 * std::exp(-6.0 * i / n) + (i % 2 ? 0.2 : -0.2));
  return points;
}

TEST_F(LossPlotTest, DrawsBothCurvesFalling) {
  ASSERT_TRUE(write_loss_plot(dir / "training_loss.png", falling(300)));
  const Picture p(dir / "training_loss.png");
  ASSERT_GE(p.width, 800);
  ASSERT_GE(p.height, 500);
  double before = 0;
  for (const int x : {150, 300, 600, 900}) {
    const double dark = p.row_of(x, 20, 86, 184), pale = p.row_of(x, 158, 196, 238);
    ASSERT_GT(dark, 0) << "the smoothed curve passes column " << x;
    EXPECT_GT(pale, 0) << "the original curve passes column " << x;
    EXPECT_GT(dark, before - 2) << "a falling loss goes down the picture";
    before = dark;
  }
  EXPECT_GT(p.row_of(900, 20, 86, 184), p.row_of(150, 20, 86, 184) + 150);
  EXPECT_EQ(p.pixels[0], 255) << "white ground";
}

TEST_F(LossPlotTest, HugeRunsAreDrawnToo) {
  ASSERT_TRUE(write_loss_plot(dir / "many.png", falling(300000)));
  EXPECT_GT(Picture(dir / "many.png").row_of(500, 20, 86, 184), 0);
}

TEST_F(LossPlotTest, OddData) {
  const std::vector<LossPoint> flat{{1, 2.5}, {2, 2.5}, {3, 2.5}}, zero{{0, 0}, {10, 0}}, same_step{{5, 1}, {5, 2}}, negative{{-3, -1e-9}, {4, 1e-9}}, large{{1, 1e30}, {1000000000, 3e35}};
  for (const auto& points : {flat, zero, same_step, negative, large}) EXPECT_TRUE(write_loss_plot(dir / "odd.png", points));
  EXPECT_EQ(Picture(dir / "odd.png").width > 0, true);
}

TEST_F(LossPlotTest, PointsThatAreNoNumbersAreLeftOut) {
  const std::vector<LossPoint> one{{1, 2}, {2, std::nan("")}, {3, INFINITY}}, two{{1, 2}, {2, std::nan("")}, {3, 1}};
  EXPECT_FALSE(write_loss_plot(dir / "none.png", one));
  EXPECT_FALSE(write_loss_plot(dir / "none.png", {}));
  EXPECT_FALSE(fs::exists(dir / "none.png"));
  EXPECT_TRUE(write_loss_plot(dir / "two.png", two));
}

TEST_F(LossPlotTest, AFileThatCannotBeWrittenIsAnError) { EXPECT_THROW(write_loss_plot(dir / "absent" / "x.png", falling(10)), Error); }

TEST(Smoothed, IsTheirExponentialMean) {
  // Python: w = 1.8 * (1 / (1 + exp(-0.05 * 4)) - 0.5); last = last * w + (1 - w) * x
  const std::vector<LossPoint> points{{1, 4.0}, {2, 2.0}, {3, 3.0}, {4, 1.0}};
  const double expected[] = {4.0, 2.1794023903249204, 2.926391413664687, 1.172799612156424};
  const auto mean = smoothed(points);
  ASSERT_EQ(mean.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(mean[i], expected[i], 1e-12);
}

TEST(Ticks, AreRoundAndInside) {
  const struct { double low, high; int wanted; } cases[] = {{0, 10, 5}, {0.13, 5.7, 7}, {1, 200000, 6}, {-1e-7, 3e-7, 5}, {2.4999, 2.5001, 7}, {1e30, 3e35, 7}, {0, 1, 6}};
  for (const auto& c : cases) {
    const Ticks t = ticks(c.low, c.high, c.wanted);
    EXPECT_GE(t.count, c.wanted / 2) << c.low << " to " << c.high;
    EXPECT_LE(t.count, 2 * c.wanted + 1);
    EXPECT_GE(t.first, c.low - 1e-6 * (c.high - c.low));
    EXPECT_LE(t.first + (t.count - 1) * t.step, c.high + 1e-6 * (c.high - c.low));
    const double digit = t.step / std::pow(10, std::floor(std::log10(t.step) + 1e-9));
    EXPECT_TRUE(std::fabs(digit - 1) < 1e-6 || std::fabs(digit - 2) < 1e-6 || std::fabs(digit - 5) < 1e-6) << t.step;
  }
  EXPECT_EQ(ticks(0.13, 5.7, 7).decimals, 0);
  EXPECT_EQ(ticks(2.4999, 2.5001, 7).decimals, 5);
}

}  // namespace
}  // namespace thimble::train
