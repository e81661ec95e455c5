// A picture made of strokes alone: a pixel takes as much colour as the nearest stroke covers of it, which smooths every edge.
// Letters are strokes too; only those that the plot's words need are here.
#include "train/loss_plot.h"

#include <fmt/core.h>
#include <png.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace thimble::train {
namespace {

struct Point { double x, y; };
struct Colour { double r, g, b; };
constexpr Colour white{255, 255, 255}, ink{62, 66, 74}, grid{233, 235, 239}, axis{150, 156, 166}, pale{158, 196, 238}, strong{20, 86, 184};
constexpr int width = 960, height = 600;
constexpr double left = 84, right = width - 30, top = 72, bottom = height - 62;

// A grid of x 0 to 4 and y 0 (top of capitals), 2 (top of small letters), 6 (baseline), 8. Two digits are a point, a space lifts the pen,
// and a stroke that begins with ~ has its corners rounded.
struct Glyph { char c; int advance; std::string_view strokes; };
constexpr Glyph glyphs[] = {
    {'0', 6, "~204046060020"}, {'1', 4, "0110 1016"}, {'2', 6, "~0100404206 0646"}, {'3', 6, "~0100404313 ~1343460605"},
    {'4', 6, "300444 3036"}, {'5', 6, "400003 ~0343460605"}, {'6', 6, "~400006464303"}, {'7', 6, "004016"},
    {'8', 6, "~204043030020 ~234346060323"}, {'9', 6, "~064640000343"}, {'.', 2, "0606"}, {'-', 5, "0434"},
    {'a', 6, "~42020646 4246"}, {'d', 6, "~42020646 4046"}, {'e', 6, "0444 ~444202064645"}, {'g', 6, "~42020646 ~42480807"},
    {'h', 6, "0006 ~04024246"}, {'i', 2, "0206 0000"}, {'l', 2, "0006"}, {'m', 8, "0206 ~04023236 ~34326266"},
    {'n', 6, "0206 ~04024246"}, {'o', 6, "~224246060222"}, {'p', 6, "0208 ~02424606"}, {'r', 5, "0206 ~040232"},
    {'s', 6, "~4342020444460605"}, {'t', 5, "~10141636 0232"}, {' ', 4, ""},
};

// Chaikin's corner cutting: each corner is replaced by two points on its sides.
std::vector<Point> rounded(std::vector<Point> line) {
  for (int pass = 0; pass < 3 && line.size() > 2; ++pass) {
    std::vector<Point> cut{line.front()};
    for (size_t i = 0; i + 1 < line.size(); ++i) {
      const Point a = line[i], b = line[i + 1];
      if (i > 0) cut.push_back({0.75 * a.x + 0.25 * b.x, 0.75 * a.y + 0.25 * b.y});
      if (i + 2 < line.size()) cut.push_back({0.25 * a.x + 0.75 * b.x, 0.25 * a.y + 0.75 * b.y});
    }
    cut.push_back(line.back());
    line = std::move(cut);
  }
  return line;
}

double distance(Point p, Point a, Point b) {
  const double dx = b.x - a.x, dy = b.y - a.y, length2 = dx * dx + dy * dy;
  const double t = length2 > 0 ? std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / length2, 0.0, 1.0) : 0.0;
  return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

class Canvas {
 public:
  Canvas() : pixels_(size_t(width) * height * 3, 255), cover_(size_t(width) * height) {}

  // A line through the points, painted once: where it crosses itself it is no darker.
  void stroke(std::span<const Point> line, double thickness, Colour colour) {
    cover(line, thickness);
    paint(colour);
  }

  void text(std::string_view words, Point at, double unit, Colour colour) {  // `at`: left end of the baseline
    for (const char c : words) {
      const Glyph& g = glyph(c);
      for (size_t i = 0; i < g.strokes.size();) {
        const size_t end = std::min(g.strokes.find(' ', i), g.strokes.size());
        const bool round = g.strokes[i] == '~';
        std::vector<Point> line;
        for (size_t k = i + round; k + 1 < end; k += 2) line.push_back({at.x + (g.strokes[k] - '0') * unit, at.y + (g.strokes[k + 1] - '6') * unit});
        cover(round ? rounded(std::move(line)) : line, 0.3 + 0.72 * unit);
        i = end + 1;
      }
      at.x += g.advance * unit;
    }
    paint(colour);
  }

  static double text_width(std::string_view words, double unit) {
    double sum = -2 * unit;  // the gap after the last
    for (const char c : words) sum += glyph(c).advance * unit;
    return sum;
  }

  std::string png() const {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = width;
    image.height = height;
    image.format = PNG_FORMAT_RGB;
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    std::string bytes(size, '\0');
    const int ok = png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels_.data(), 0, nullptr);
    check(ok != 0, "a picture of fixed size can be encoded");
    bytes.resize(size);
    return bytes;
  }

 private:
  static const Glyph& glyph(char c) {
    for (const Glyph& g : glyphs)
      if (g.c == c) return g;
    throw Error(fmt::format("the plot's letters lack '{}'", c));
  }

  void cover(std::span<const Point> line, double thickness) {
    const double reach = thickness / 2 + 0.5;
    for (size_t i = 0; i < line.size(); ++i) {
      const Point a = line[i], b = line[std::min(i + 1, line.size() - 1)];
      if (i > 0 && i + 1 == line.size()) break;
      const int x0 = std::max(0, int(std::min(a.x, b.x) - reach)), x1 = std::min(width - 1, int(std::max(a.x, b.x) + reach));
      const int y0 = std::max(0, int(std::min(a.y, b.y) - reach)), y1 = std::min(height - 1, int(std::max(a.y, b.y) + reach));
      for (int y = y0; y <= y1; ++y)
        for (int x = x0; x <= x1; ++x) {
          const auto c = float(std::clamp(reach - distance({x + 0.5, y + 0.5}, a, b), 0.0, 1.0));
          float& most = cover_[size_t(y) * width + size_t(x)];
          if (c > most) most = c;
        }
      x0_ = std::min(x0_, x0), x1_ = std::max(x1_, x1), y0_ = std::min(y0_, y0), y1_ = std::max(y1_, y1);
    }
  }

  void paint(Colour colour) {
    for (int y = y0_; y <= y1_; ++y)
      for (int x = x0_; x <= x1_; ++x) {
        float& c = cover_[size_t(y) * width + size_t(x)];
        uint8_t* p = &pixels_[(size_t(y) * width + size_t(x)) * 3];
        const double values[] = {colour.r, colour.g, colour.b};
        for (int k = 0; k < 3; ++k) p[k] = uint8_t(std::lround(p[k] + (values[k] - p[k]) * double(c)));
        c = 0;
      }
    x0_ = width, x1_ = -1, y0_ = height, y1_ = -1;
  }

  std::vector<uint8_t> pixels_;
  std::vector<float> cover_;
  int x0_ = width, x1_ = -1, y0_ = height, y1_ = -1;  // what was covered since the last paint
};

// Where steps and losses lie in the picture.
struct Frame {
  double step_low, step_high, loss_low, loss_high;
  double x(double step) const { return left + (step - step_low) / (step_high - step_low) * (right - left); }
  double y(double loss) const { return bottom - (loss - loss_low) / (loss_high - loss_low) * (bottom - top); }
};

// Of many points in one column of pixels only the first, the lowest, the highest and the last can be seen.
std::vector<Point> thinned(const std::vector<Point>& line) {
  std::vector<Point> seen;
  for (size_t i = 0; i < line.size();) {
    size_t end = i, low = i, high = i;
    for (; end < line.size() && std::floor(line[end].x) == std::floor(line[i].x); ++end) {
      if (line[end].y < line[low].y) low = end;
      if (line[end].y > line[high].y) high = end;
    }
    size_t picks[] = {i, std::min(low, high), std::max(low, high), end - 1};
    for (size_t k = 0; k < 4; ++k)
      if (k == 0 || picks[k] != picks[k - 1]) seen.push_back(line[picks[k]]);
    i = end;
  }
  return seen;
}

void draw_axes(Canvas& canvas, const Frame& frame) {
  constexpr double unit = 1.75;
  const Ticks losses = ticks(frame.loss_low, frame.loss_high, 7), steps = ticks(frame.step_low, frame.step_high, 6);
  for (int i = 0; i < losses.count; ++i) {
    const double value = losses.first + i * losses.step, y = std::floor(frame.y(value)) + 0.5;
    canvas.stroke(std::vector<Point>{{left, y}, {right, y}}, 1, grid);
    const auto label = fmt::format("{:.{}f}", value, losses.decimals);
    canvas.text(label, {left - 12 - Canvas::text_width(label, unit), y + 3 * unit}, unit, ink);
  }
  for (int i = 0; i < steps.count; ++i) {
    const double value = steps.first + i * steps.step, x = std::floor(frame.x(value)) + 0.5;
    canvas.stroke(std::vector<Point>{{x, bottom}, {x, bottom + 5}}, 1, axis);
    const auto label = fmt::format("{:.{}f}", value, steps.decimals);
    const double wide = Canvas::text_width(label, unit);
    canvas.text(label, {std::min(x - wide / 2, width - 8 - wide), bottom + 13 + 6 * unit}, unit, ink);
  }
  canvas.stroke(std::vector<Point>{{left, bottom + 0.5}, {right, bottom + 0.5}}, 1, axis);
  canvas.text("step", {(left + right - Canvas::text_width("step", 1.9)) / 2, height - 12.0}, 1.9, ink);
  canvas.text("training loss", {left, 36}, 2.5, ink);
}

void draw_legend(Canvas& canvas) {
  double x = right;
  for (const auto& [words, colour, thickness] : {std::tuple{"smoothed", strong, 3.0}, std::tuple{"original", pale, 2.0}}) {
    x -= Canvas::text_width(words, 1.9);
    canvas.text(words, {x, 36}, 1.9, ink);
    canvas.stroke(std::vector<Point>{{x - 36, 31}, {x - 10, 31}}, thickness, colour);
    x -= 66;
  }
}

}  // namespace

std::vector<double> smoothed(std::span<const LossPoint> points) {
  const auto n = double(points.size());
  const double theirs = 1.8 * (1 / (1 + std::exp(-0.05 * n)) - 0.5);  // ends at 0.9, which is no more smooth over thousands of points
  const double weight = std::max(theirs, 1 - 40 / std::max(n, 40.0));
  std::vector<double> line;
  for (const auto& [step, loss] : points) line.push_back(line.empty() ? loss : line.back() * weight + (1 - weight) * loss);
  return line;
}

Ticks ticks(double low, double high, int wanted) {
  const double rough = (high - low) / wanted, power = std::floor(std::log10(rough)), unit = std::pow(10.0, power), ratio = rough / unit;
  // 1, 2, 5 or 10 units, whichever is nearest by ratio
  const double step = (ratio < 1.4142 ? 1 : ratio < 3.1623 ? 2 : ratio < 7.0711 ? 5 : 10) * unit;
  Ticks t{.first = std::ceil(low / step - 1e-9) * step, .step = step};
  t.count = int(std::floor((high - t.first) / step + 1e-9)) + 1;
  t.decimals = std::max(0, -int(std::floor(std::log10(step) + 1e-9)));
  return t;
}

bool write_loss_plot(const std::filesystem::path& path, std::span<const LossPoint> all) {
  std::vector<LossPoint> points;
  for (const LossPoint& p : all)
    if (std::isfinite(p.second)) points.push_back(p);
  if (points.size() < 2) return false;
  const auto [first, last] = std::minmax_element(points.begin(), points.end());
  const auto by_loss = [](const LossPoint& a, const LossPoint& b) { return a.second < b.second; };
  const auto [low, high] = std::minmax_element(points.begin(), points.end(), by_loss);
  const double span = high->second - low->second, margin = span > 0 ? 0.05 * span : std::max(1e-6, 0.05 * std::fabs(low->second));
  const Frame frame{.step_low = double(first->first), .step_high = std::max(double(last->first), double(first->first) + 1),
                    .loss_low = low->second - margin, .loss_high = high->second + margin};
  const auto mean = smoothed(points);
  std::vector<Point> original, smooth;
  for (size_t i = 0; i < points.size(); ++i) {
    original.push_back({frame.x(double(points[i].first)), frame.y(points[i].second)});
    smooth.push_back({original.back().x, frame.y(mean[i])});
  }
  Canvas canvas;
  draw_axes(canvas, frame);
  canvas.stroke(thinned(original), 1.6, pale);
  canvas.stroke(thinned(smooth), 2.6, strong);
  draw_legend(canvas);
  write_atomically(path, canvas.png());
  return true;
}

}  // namespace thimble::train
