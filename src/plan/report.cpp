// Rows are uses, columns are tiers; then what was decided, and how fast it should be.
#include <fmt/core.h>

#include "base/file.h"
#include "plan/plan.h"

namespace thimble::plan {

std::string report(const Candidate& c, const Budget& budget, const DeviceSpec& spec, int64_t process_bytes) {
  const auto& o = c.outcome;
  const auto cell = [](int64_t bytes) { return bytes ? human_bytes(bytes) : std::string("-"); };
  std::string text = fmt::format("{:<22}{:>12}{:>12}\n", "", "device", "ram");
  const auto row = [&](std::string_view name, int64_t device, int64_t ram) {
    if (device || ram) text += fmt::format("{:<22}{:>12}{:>12}\n", name, cell(device), cell(ram));
  };
  for (int u = 0; u < use_count; ++u)
    row(name_of(Use(u)), o.at_peak[size_t(Tier::device)][size_t(u)], o.at_peak[size_t(Tier::pinned)][size_t(u)] + o.at_peak[size_t(Tier::host)][size_t(u)]);
  row("page tables", o.page_tables, 0);
  row("the program itself", spec.overhead, process_bytes);
  const int64_t device = o.device() + spec.overhead, ram = o.ram() + process_bytes;
  text += fmt::format("{:<22}{:>12}{:>12}\n", "in all", human_bytes(device), human_bytes(ram));
  text += fmt::format("{:<22}{:>12}{:>12}\n", "budget", human_bytes(budget.device + spec.overhead), human_bytes(budget.ram + process_bytes));
  text += fmt::format("{:<22}{:>12}{:>12}\n\n", "free", human_bytes(budget.device + spec.overhead - device), human_bytes(budget.ram + process_bytes - ram));
  const auto layers = int(c.plan.save.size());
  text += fmt::format("micro-batch {} x {} accumulated{}; {} of {} layers resident{}{}{}; logits of {} tokens at a time{}{}{}\n{}\n",
                      c.plan.micro_batch, c.plan.accumulation,
                      c.plan.window > 1 ? fmt::format(", each layer runs {} of them before the next", c.plan.window) : "", c.plan.resident_layers, layers,
                      c.plan.resident_layers < layers ? ", the rest streamed" : "",
                      c.plan.unpacked_layers ? fmt::format(", {} of them unpacked", c.plan.unpacked_layers) : "",
                      c.plan.unpack_layer ? "; a layer's matrices unpacked once each way" : "", c.plan.head_chunk,
                      c.plan.token_chunk ? fmt::format("; layers in chunks of {} tokens", c.plan.token_chunk) : "",
                      c.plan.embedding_on_host ? "; embedding in host memory" : "", c.plan.paged_optimizer ? "; optimizer state paged" : "", describe_saves(c.plan));
  text += fmt::format("predicted on {}: {:.3f} s a step, {:.0f} tokens/s\n", spec.name, o.step_seconds(c.plan), o.tokens_per_second(c.plan));
  return text;
}

}  // namespace thimble::plan
