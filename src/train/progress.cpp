// Parts of the line in the order they are read, each with a rank: when the terminal is narrow, parts leave by rank.
#include "train/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <vector>

#include "base/file.h"

namespace thimble::train {
namespace {

constexpr int bar_width = 24, least_bar = 6;

std::string short_clock(double seconds) {
  const auto s = std::isfinite(seconds) && seconds > 0 ? int64_t(seconds) : 0;
  return s < 3600 ? fmt::format("{:02}:{:02}", s / 60, s % 60) : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

// "device 1.21/1.50 GiB": both in the unit of the plan.
std::string tier_text(const TierUse& u) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double scale = 1;
  int unit = 0;
  while (double(u.plan) / scale >= 1024 && unit < 4) scale *= 1024, ++unit;
  const int digits = unit >= 3 ? 2 : unit == 2 ? 1 : 0;
  return fmt::format("{} {:.{}f}/{:.{}f} {}", name_of(u.tier), double(u.now) / scale, digits, double(u.plan) / scale, digits, units[unit]);
}

double share(const StepReport& r) { return r.total_steps > 0 ? std::clamp(double(r.step) / double(r.total_steps), 0.0, 1.0) : 0.0; }

std::string bar(double share, int width) {
  const int full = int(share * width);
  std::string text = "[" + std::string(size_t(full), '=');
  if (full < width) text += '>' + std::string(size_t(width - full - 1), ' ');
  return text + "]";
}

std::string rate_text(double tokens_per_second) {
  return tokens_per_second >= 9999.5 ? fmt::format("{:.1f}k tok/s", tokens_per_second / 1e3) : fmt::format("{:.0f} tok/s", tokens_per_second);
}

struct Part { std::string text; int rank; };

int columns(const std::vector<Part>& parts) {
  int sum = -2;
  for (const Part& p : parts) sum += int(p.text.size()) + 2;
  return sum;
}

}  // namespace

std::string progress_line(const StepReport& r, std::span<const TierUse> tiers, int width) {
  std::vector<Part> parts{{fmt::format("{}/{}", r.step, r.total_steps), 0},
                          {fmt::format("{:3.0f}%", std::floor(100 * share(r))), 1},
                          {fmt::format("{}<{}", short_clock(r.seconds), short_clock(seconds_left(r.seconds, r.step, r.total_steps))), 3},
                          {fmt::format("loss {:.4f}", r.loss), 2},
                          {fmt::format("lr {:.2e}", r.learning_rate), 7},
                          {fmt::format("norm {:.3g}", r.grad_norm), 6},
                          {rate_text(r.tokens_per_second), 4}};
  for (const TierUse& u : tiers) parts.push_back({tier_text(u), u.tier == Tier::device ? 5 : 8 + int(u.tier)});
  while (parts.size() > 1 && columns(parts) > width)
    parts.erase(std::max_element(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.rank < b.rank; }));
  const int room = width - columns(parts) - 4;  // two spaces and two brackets
  std::string line;
  for (size_t i = 0; i < parts.size(); ++i) {
    line += (i ? "  " : "") + parts[i].text;
    if (i == 1 && room >= least_bar) line += "  " + bar(share(r), std::min(room, bar_width));
  }
  return line.substr(0, size_t(std::max(0, width)));
}

std::string plain_line(const StepReport& r, std::span<const TierUse> tiers) {
  std::string line = fmt::format("step {}/{} ({:.1f}%)  {}<{}  loss {:.4f}  lr {:.3e}  grad_norm {:.4g}  epoch {:.2f}  {}", r.step,
                                 r.total_steps, 100 * share(r), short_clock(r.seconds),
                                 short_clock(seconds_left(r.seconds, r.step, r.total_steps)), r.loss, r.learning_rate, r.grad_norm, r.epoch,
                                 rate_text(r.tokens_per_second));
  for (const TierUse& u : tiers) line += "  " + tier_text(u);
  return line;
}

Progress::Progress(How how) : how_(how), terminal_(::isatty(how.fd) == 1) {}

void Progress::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(how_.fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody reads any more; the run goes on
    text.remove_prefix(size_t(n));
  }
}

void Progress::show(const StepReport& r, std::span<const TierUse> tiers) {
  const bool last = r.step == r.total_steps;
  if (!terminal_) {
    if (last || r.step % how_.logging_steps == 0 || (r.step == 1 && how_.first_step)) write(plain_line(r, tiers) + "\n");
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (standing_ && !last && now - drawn_ < std::chrono::milliseconds(50)) return;
  drawn_ = now;
  winsize size{};
  const int width = ::ioctl(how_.fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  write("\r" + progress_line(r, tiers, width - 1) + "\033[K");  // the last column stays free: writing it would wrap
  standing_ = true;
}

void Progress::clear() {
  if (standing_) write("\r\033[K");
  standing_ = false;
}

void Progress::finish() {
  if (standing_) write("\n");
  standing_ = false;
}

}  // namespace thimble::train
