// The plan for programs, and as a page with pictures: both from the same story.
#include <fmt/core.h>

#include <algorithm>

#include "base/file.h"
#include "plan/report.h"

namespace thimble::plan {
namespace {

constexpr const char* colours[use_count] = {"#4878a8", "#8fbfe0", "#e8a33d", "#c8553d", "#6aa84f", "#b4a7d6", "#999999", "#d5a6bd", "#76a5af"};

Json uses(const std::array<int64_t, use_count>& by_use) {
  Json j = Json::object();
  for (int u = 0; u < use_count; ++u)
    if (by_use[size_t(u)]) j[name_of(Use(u))] = by_use[size_t(u)];
  return j;
}

Json plan_json(const Plan& p) {
  Json saves = Json::array();
  std::vector<std::pair<nn::LayerSave, int>> kinds;
  for (const auto& save : p.save) {
    auto it = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == save; });
    if (it == kinds.end()) it = kinds.insert(kinds.end(), {save, 0});
    ++it->second;
  }
  for (const auto& [save, count] : kinds) {
    Json tensors = Json::object();
    for (int i = 0; i < nn::saved_count; ++i)
      tensors[nn::name_of(nn::SavedName(i))] = save[size_t(i)] == nn::Save::keep ? "keep" : save[size_t(i)] == nn::Save::recompute ? "recompute" : "offload";
    saves.push_back({{"layers", count}, {"tensors", tensors}});
  }
  return {{"micro_batch", p.micro_batch}, {"accumulation", p.accumulation}, {"window", p.window}, {"unpack_layer", p.unpack_layer}, {"layers", p.save.size()},
          {"resident_layers", p.resident_layers}, {"disk_layers", p.disk_layers}, {"unpacked_layers", p.unpacked_layers}, {"head_chunk", p.head_chunk}, {"token_chunk", p.token_chunk}, {"paged_optimizer", p.paged_optimizer}, {"embedding_on_host", p.embedding_on_host},
          {"saves", saves}, {"words", describe(p)}};
}

Json candidate_json(const Candidate& c, const Story& s) {
  return {{"device_bytes", c.outcome.device() + s.spec.overhead}, {"ram_bytes", c.outcome.ram() + s.process_bytes}, {"disk_bytes", c.outcome.disk()}, {"step_seconds", c.outcome.step_seconds(c.plan)},
          {"tokens_per_second", c.outcome.tokens_per_second(c.plan)}, {"fits", fits(c.outcome, s.budget)},
          {"plan", plan_json(c.plan)}};
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : c == '\n' ? "<br>" : std::string(1, c);
  return out;
}

// A horizontal bar of one tier, each use as wide as its bytes.
std::string bar_svg(std::string_view name, const std::vector<std::tuple<std::string, std::string, int64_t>>& parts, int64_t budget) {
  std::string svg = fmt::format("<h3>{}: {}</h3><svg viewBox='0 0 1000 40' width='100%' height='40' preserveAspectRatio='none'><rect width='1000' height='40' fill='#eee'/>", name, human_bytes(budget));
  double x = 0;
  for (const auto& [label, colour, bytes] : parts) {
    const double width = 1000.0 * double(bytes) / double(std::max<int64_t>(1, budget));
    svg += fmt::format("<rect x='{:.2f}' width='{:.2f}' height='40' fill='{}'><title>{}: {}</title></rect>", x, width, colour, label, human_bytes(bytes));
    x += width;
  }
  svg += "</svg><p>";
  for (const auto& [label, colour, bytes] : parts)
    if (bytes) svg += fmt::format("<span class='key' style='background:{}'></span>{} {} ", colour, label, human_bytes(bytes));
  return svg + "</p>";
}

std::string timeline_svg(const std::vector<Point>& points, int64_t budget, double end) {
  if (points.empty()) return "";
  int64_t most = budget;
  for (const Point& p : points) most = std::max(most, p.bytes);
  const auto y = [&](int64_t bytes) { return 300 - 290.0 * double(bytes) / double(most); };
  std::string path;
  for (const Point& p : points) {
    const double x = end > 0 ? 1000 * p.seconds / end : 0;
    path += path.empty() ? fmt::format("M0 300 L0 {:.1f} L{:.2f} {:.1f}", y(p.bytes), x, y(p.bytes)) : fmt::format(" L{:.2f} {:.1f}", x, y(p.bytes));
  }
  path += " L1000 300 Z";
  return fmt::format("<svg viewBox='0 0 1000 300' width='100%' height='300' preserveAspectRatio='none'><path d='{}' fill='#6aa84f66' stroke='#38761d' vector-effect='non-scaling-stroke'/>"
                     "<line x1='0' x2='1000' y1='{:.1f}' y2='{:.1f}' stroke='#c00' stroke-dasharray='6' vector-effect='non-scaling-stroke'><title>the budget</title></line></svg>", path, y(budget), y(budget));
}

}  // namespace

Json to_json(const Story& s) {
  const auto& [plan, o] = *s.choice.best;
  const TimeShares& t = s.analysis.time;
  Json alive = Json::object(), alternatives = Json::array(), ops = Json::array();
  for (const Tier tier : {Tier::device, Tier::pinned, Tier::host, Tier::disk})
    for (const auto& a : s.analysis.alive_at_peak[size_t(tier)])
      alive[name_of(tier)].push_back({{"name", a.name}, {"use", name_of(a.use)}, {"bytes", a.bytes}, {"tensors", a.count}});
  for (const auto& c : s.choice.front) alternatives.push_back(candidate_json(c, s));
  for (const auto& op : s.analysis.ops) ops.push_back({{"op", op.name}, {"calls", op.calls}, {"seconds", op.seconds}});
  const auto tier = [&o = o](Tier which) { return Json{{"bytes", o.peak[size_t(which)]}, {"by_use", uses(o.at_peak[size_t(which)])}}; };
  return {{"model", s.model},
          {"machine", {{"name", s.spec.name}, {"kind", s.spec.kind == DeviceKind::cuda ? "cuda" : "cpu"}, {"flops", s.spec.flops}, {"memory_bandwidth", s.spec.memory_bandwidth},
                       {"link_bandwidth", s.spec.link_bandwidth}, {"disk_bandwidth", s.spec.disk_bandwidth}, {"overhead_bytes", s.spec.overhead}}},
          {"budget", {{"device_bytes", s.budget.device + s.spec.overhead}, {"ram_bytes", s.budget.ram + s.process_bytes}, {"disk_bytes", s.budget.disk}}},
          {"tiers", {{"device", tier(Tier::device)}, {"pinned", tier(Tier::pinned)}, {"host", tier(Tier::host)}, {"disk", tier(Tier::disk)}}},
          {"page_tables_bytes", o.page_tables},
          {"process_bytes", s.process_bytes},
          {"total", {{"device_bytes", o.device() + s.spec.overhead}, {"ram_bytes", o.ram() + s.process_bytes}, {"disk_bytes", o.disk()}}},
          {"plan", plan_json(plan)},
          {"predicted", {{"step_seconds", o.step_seconds(plan)}, {"tokens_per_step", o.tokens * plan.accumulation}, {"tokens_per_second", o.tokens_per_second(plan)},
                         {"window_seconds", o.window_seconds}, {"update_seconds", o.update_seconds}}},
          {"time", {{"bound", name_of(bound_of(t))}, {"matrix", t.matrix}, {"memory", t.memory}, {"vector", t.vector}, {"fixed", t.fixed}, {"waiting", t.waiting},
                    {"copies_in", t.copies_in}, {"copies_out", t.copies_out}, {"disk", t.disk}}},
          {"ops", ops}, {"alive_at_peak", alive}, {"alternatives", alternatives}, {"plans_tried", s.choice.tried}};
}

std::string to_html(const Story& s) {
  const auto& [plan, o] = *s.choice.best;
  std::string page = fmt::format(
      "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>Plan: {0}</title><style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;"
      "padding:0 1em;color:#222}}table{{border-collapse:collapse}}td,th{{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}}td:first-child,th:first-child{{text-align:left}}"
      "pre{{background:#f6f6f6;padding:1em;overflow:auto}}.key{{display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 1em}}.best{{background:#e6f4e0}}.no{{color:#999}}</style>"
      "<h1>{0}</h1><p>On {1}: <b>{2:.3f} s a step, {3:.0f} tokens/s</b> predicted.</p><p>{4}</p><pre>{5}</pre>",
      escaped(s.model), escaped(s.spec.name), o.step_seconds(plan), o.tokens_per_second(plan), escaped(describe(plan)), escaped(reasons(s)));
  const auto parts = [&s, &o = o](bool device) {
    std::vector<std::tuple<std::string, std::string, int64_t>> all;
    for (size_t u = 0; u < use_count; ++u)
      all.emplace_back(name_of(Use(u)), colours[u], device ? o.at_peak[size_t(Tier::device)][u] : o.at_peak[size_t(Tier::pinned)][u] + o.at_peak[size_t(Tier::host)][u]);
    all.emplace_back("the program itself", "#444444", device ? s.spec.overhead + o.page_tables : s.process_bytes);
    return all;
  };
  page += "<h2>Memory</h2>" + bar_svg("device", parts(true), s.budget.device + s.spec.overhead) + bar_svg("RAM", parts(false), s.budget.ram + s.process_bytes);
  if (s.budget.disk) page += bar_svg("disk", {{"weights", colours[int(Use::weights)], o.disk()}}, s.budget.disk);
  const auto& points = s.analysis.timeline[size_t(Tier::device)];
  const double end = points.empty() ? 0 : points.back().seconds;
  page += fmt::format("<h2>The device's memory through a pass of {} micro-batches and the update ({:.3f} s)</h2>", plan.window, end) + timeline_svg(points, s.budget.device, end);
  page += "<h2>Alive when the device is fullest</h2><table><tr><th>tensor</th><th>use</th><th>tensors</th><th>bytes</th></tr>";
  for (const auto& a : s.analysis.alive_at_peak[size_t(Tier::device)])
    page += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", escaped(a.name), name_of(a.use), a.count, human_bytes(a.bytes));
  page += "</table><h2>Where the time goes</h2><table><tr><th>op</th><th>calls</th><th>ms</th></tr>";
  for (const auto& op : s.analysis.ops) page += fmt::format("<tr><td>{}</td><td>{}</td><td>{:.2f}</td></tr>", escaped(op.name), op.calls, op.seconds * 1e3);
  page += "</table><h2>Alternatives considered</h2><p>None is faster in as little memory; grey ones do not fit.</p><table><tr><th>plan</th><th>device</th><th>RAM</th><th>s/step</th><th>tokens/s</th></tr>";
  for (const auto& c : s.choice.front) {
    page += fmt::format("<tr class='{}'><td>{}</td><td>{}</td><td>{}</td><td>{:.3f}</td><td>{:.0f}</td></tr>", c.plan == plan ? "best" : fits(c.outcome, s.budget) ? "" : "no", escaped(describe(c.plan)),
                        human_bytes(c.outcome.device() + s.spec.overhead), human_bytes(c.outcome.ram() + s.process_bytes), c.outcome.step_seconds(c.plan), c.outcome.tokens_per_second(c.plan));
  }
  return page + fmt::format("</table><p>{} plans were dry-run.</p></html>\n", s.choice.tried);
}

}  // namespace thimble::plan
