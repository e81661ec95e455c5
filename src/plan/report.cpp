// Rows are uses, columns are tiers; then what was decided, how fast it should be, and why.
#include "plan/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "base/file.h"

namespace thimble::plan {
namespace {

constexpr int bar_width = 60;
constexpr char letters[use_count + 1] = "wagotsrbk";  // by Use

std::string cell(int64_t bytes) { return bytes ? human_bytes(bytes) : std::string("-"); }

std::string seconds_text(double s) { return s >= 5400 ? fmt::format("{:.1f} h", s / 3600) : s >= 90 ? fmt::format("{:.1f} min", s / 60) : fmt::format("{:.3g} s", s); }

int64_t host_bytes(const Outcome& o, int use) { return o.at_peak[size_t(Tier::pinned)][size_t(use)] + o.at_peak[size_t(Tier::host)][size_t(use)]; }

// "device  [wwwwwwttt....]  23.46 of 24.00 GiB"
std::string bar(std::string_view name, const std::array<int64_t, use_count>& by_use, int64_t other, int64_t budget) {
  std::string line;
  int64_t sum = 0;
  const auto fill = [&](char letter, int64_t bytes) {
    sum += bytes;
    const auto until = size_t(std::min<int64_t>(bar_width, (sum * bar_width + budget / 2) / std::max<int64_t>(1, budget)));
    if (until > line.size()) line.append(until - line.size(), letter);
  };
  for (int u = 0; u < use_count; ++u) fill(letters[u], by_use[size_t(u)]);
  fill('p', other);
  line.append(size_t(bar_width) - line.size(), '.');
  return fmt::format("{:<7}[{}] {:.0f}% of {}\n", name, line, 100.0 * double(sum) / double(std::max<int64_t>(1, budget)), human_bytes(budget));
}

}  // namespace

std::string describe(const Plan& p) {
  const auto layers = int(p.save.size());
  return fmt::format("micro-batch {} x {} accumulated{}; {} of {} layers resident{}{}{}; logits of {} tokens at a time{}{}{}\n{}", p.micro_batch, p.accumulation,
                     p.window > 1 ? fmt::format(", each layer runs {} of them before the next", p.window) : "", p.resident_layers, layers,
                     p.resident_layers < layers ? p.disk_layers ? fmt::format(", the rest streamed, {} of these from disk", p.disk_layers) : ", the rest streamed" : "", p.unpacked_layers ? fmt::format(", {} of them unpacked", p.unpacked_layers) : "",
                     p.unpack_layer ? "; a layer's matrices unpacked once each way" : "", p.head_chunk,
                     p.token_chunk ? fmt::format("; layers in chunks of {} tokens", p.token_chunk) : "",
                     p.embedding_on_host ? "; embedding in host memory" : "", p.paged_optimizer ? "; optimizer state paged" : "", describe_saves(p));
}

std::string report(const Candidate& c, const Budget& budget, const DeviceSpec& spec, int64_t process_bytes) {
  const auto& o = c.outcome;
  std::string text;
  const auto line = [&](std::string_view name, std::string_view device, std::string_view ram, std::string_view disk) {
    text += fmt::format("{:<22}{:>12}{:>12}", name, device, ram) + (budget.disk ? fmt::format("{:>12}\n", disk) : "\n");
  };
  line("", "device", "ram", "disk");
  const auto row = [&](std::string_view name, int64_t device, int64_t ram, int64_t disk = 0) {
    if (device || ram || disk) line(name, cell(device), cell(ram), cell(disk));
  };
  for (size_t u = 0; u < use_count; ++u) row(name_of(Use(u)), o.at_peak[size_t(Tier::device)][u], host_bytes(o, int(u)), o.at_peak[size_t(Tier::disk)][u]);
  row("page tables", o.page_tables, 0);
  row("the program itself", spec.overhead, process_bytes);
  const int64_t device = o.device() + spec.overhead, ram = o.ram() + process_bytes;
  line("in all", human_bytes(device), human_bytes(ram), human_bytes(o.disk()));
  line("budget", human_bytes(budget.device + spec.overhead), human_bytes(budget.ram + process_bytes), human_bytes(budget.disk));
  line("free", human_bytes(budget.device + spec.overhead - device), human_bytes(budget.ram + process_bytes - ram), human_bytes(budget.disk - o.disk()));
  return text + fmt::format("\n{}\npredicted on {}: {:.3f} s a step, {:.0f} tokens/s\n", describe(c.plan), spec.name, o.step_seconds(c.plan), o.tokens_per_second(c.plan));
}

std::string bars(const Story& s) {
  const auto& o = s.choice.best->outcome;
  std::array<int64_t, use_count> ram{};
  for (int u = 0; u < use_count; ++u) ram[size_t(u)] = host_bytes(o, u);
  std::string text = bar("device", o.at_peak[size_t(Tier::device)], o.page_tables + s.spec.overhead, s.budget.device + s.spec.overhead) +
                     bar("ram", ram, s.process_bytes, s.budget.ram + s.process_bytes);
  if (s.budget.disk) text += bar("disk", o.at_peak[size_t(Tier::disk)], 0, s.budget.disk);
  std::string legend;
  for (int u = 0; u < use_count; ++u)
    if (o.at_peak[0][size_t(u)] || ram[size_t(u)]) legend += fmt::format("{}{} {}", legend.empty() ? "" : ", ", letters[u], name_of(Use(u)));
  return text + "        " + legend + ", p the program itself\n";
}

std::string reasons(const Story& s) {
  const auto& [plan, outcome] = *s.choice.best;
  const TimeShares& t = s.analysis.time;
  const double all = t.matrix + t.memory + t.vector + t.fixed + t.waiting;
  const auto percent = [&](double x) { return 100 * x / all; };
  std::string text = fmt::format("what binds: {} (matrix products {:.0f}%, memory bandwidth {:.0f}%, other arithmetic {:.0f}%, fixed costs {:.0f}%, waiting for copies {:.0f}%)\n",
                                 name_of(bound_of(t)), percent(t.matrix), percent(t.memory), percent(t.vector), percent(t.fixed), percent(t.waiting));
  const double tokens = double(outcome.tokens * plan.window), in = std::max(t.copies_in, t.disk), lane = std::max(in, t.copies_out), work = all - t.waiting;
  if (lane > 0.02 * work) {
    const double needed = tokens * in / work;
    if (plan.resident_layers < int(plan.save.size()))
      text += t.waiting > 0.02 * all ? fmt::format("copies take {:.0f}% of the time of the computation beside them: of {:.0f} tokens in a pass of the layers, some {:.0f} would hide them\n", 100 * lane / work, tokens, needed)
                                     : fmt::format("copies hide behind the computation: they take {:.0f}% of its time; {:.0f} tokens in a pass of the layers would be enough, there are {:.0f}\n", 100 * lane / work, needed, tokens);
    else text += fmt::format("copies take {:.0f}% of the time of the computation beside them\n", 100 * lane / work);
  }
  const double seconds = outcome.step_seconds(plan);
  for (const Candidate& c : s.choice.front) {
    if (c.outcome.device() >= outcome.device() * 95 / 100 || !fits(c.outcome, s.budget)) continue;
    text += fmt::format("the next plan with less device memory: {} ({} less), {:+.1f}% of time\n", human_bytes(c.outcome.device() + s.spec.overhead),
                        human_bytes(outcome.device() - c.outcome.device()), 100 * (c.outcome.step_seconds(c.plan) / seconds - 1));
    break;
  }
  for (const Candidate& c : s.choice.front) {
    if (c.outcome.step_seconds(c.plan) > seconds * 0.98 || fits(c.outcome, s.budget)) continue;
    text += fmt::format("the fastest that was tried: {} of the device and {} of RAM{}, {:+.1f}% of time\n", human_bytes(c.outcome.device() + s.spec.overhead),
                        human_bytes(c.outcome.ram() + s.process_bytes), c.outcome.disk() ? fmt::format(", {} of disk", human_bytes(c.outcome.disk())) : "", 100 * (c.outcome.step_seconds(c.plan) / seconds - 1));
    break;
  }
  if (s.rows > 0) {
    const double steps = std::ceil(double(s.rows) / double(plan.micro_batch * plan.accumulation));
    text += fmt::format("an epoch of {} rows, each as long as cutoff_len: {}\n", s.rows, seconds_text(steps * seconds));
  }
  text += fmt::format("a million tokens: {}\n", seconds_text(1e6 / outcome.tokens_per_second(plan)));
  return text;
}

std::string explain(const std::vector<Rung>& rungs, const Story& s) {
  std::string text = fmt::format("the ladder, each level for all layers and all else as chosen:\n{:<46}{:>12}{:>12}{:>10}{:>10}\n", "", "device", "ram", "s/step", "tokens/s");
  for (const auto& [name, c] : rungs) {
    const int64_t over = c.outcome.device() - s.budget.device, over_ram = c.outcome.ram() - s.budget.ram, over_disk = c.outcome.disk() - s.budget.disk;
    text += fmt::format("{:<46}{:>12}{:>12}{:>10.3f}{:>10.0f}  {}\n", name, human_bytes(c.outcome.device() + s.spec.overhead), human_bytes(c.outcome.ram() + s.process_bytes),
                        c.outcome.step_seconds(c.plan), c.outcome.tokens_per_second(c.plan),
                        over > 0 ? human_bytes(over) + " of the device short" : over_ram > 0 ? human_bytes(over_ram) + " of RAM short" : over_disk > 0 ? human_bytes(over_disk) + " of disk short" : "fits");
  }
  return text;
}

}  // namespace thimble::plan
