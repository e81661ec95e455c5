// The search: a grid over saves, resident layers and micro-batch, every point dry-run, the fastest that fits taken.
#include <algorithm>
#include <map>

#include "plan/plan.h"

namespace thimble::plan {
namespace {

using nn::LayerSave;
using nn::Save;

LayerSave with(LayerSave s, std::initializer_list<nn::SavedName> names, Save how) {
  for (const auto n : names) s[n] = how;
  return s;
}

constexpr size_t block_level = 3;  // of the ladder: from here on a layer keeps nothing but its input

// Counts 0, 1/4, ... of n, each once, in rising order.
std::vector<int> quarters(int n) {
  std::vector<int> counts;
  for (int i = 0; i <= 4; ++i) counts.push_back(n * i / 4);
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts;
}

std::vector<std::vector<LayerSave>> save_choices(const Space& space) {
  const auto layers = size_t(space.layers);
  if (space.save) return {std::vector<LayerSave>(layers, nn::all(*space.save))};
  if (space.keep_all) return {std::vector<LayerSave>(layers, ladder().front().save)};
  std::vector<std::vector<LayerSave>> choices;
  const auto& levels = ladder();
  for (size_t level = 0; level + 1 < levels.size(); ++level)
    for (const int deeper : quarters(space.layers)) {
      if (space.recompute_all && level < block_level && !(level + 1 == block_level && deeper == space.layers)) continue;
      if (deeper == 0 && level > 0) continue;  // the same as all layers at this level, seen before
      std::vector<LayerSave> saves(layers, levels[level].save);
      // Early layers go deeper first: what they keep is held longest.
      for (int l = 0; l < deeper; ++l) saves[size_t(l)] = levels[level + 1].save;
      choices.push_back(std::move(saves));
    }
  return choices;
}

}  // namespace

const std::vector<Level>& ladder() {
  using namespace nn;
  static const std::vector<Level> levels = [] {
    std::vector<Level> l;
    l.push_back({"keep all", all(Save::keep)});
    l.push_back({"recompute norms and act", with(l.back().save, {normed_attention, normed_mlp, act}, Save::recompute)});
    l.push_back({"recompute mlp", with(l.back().save, {gate, up, xa_gate, xa_up, xa_down}, Save::recompute)});
    l.push_back({"recompute block", with(all(Save::recompute), {input, rstd_attention, rstd_mlp}, Save::keep)});
    l.push_back({"recompute block, offload input", with(all(Save::recompute), {input}, Save::offload)});
    return l;
  }();
  return levels;
}

std::string describe_saves(const Plan& plan) {
  const auto name = [&](const LayerSave& s) -> std::string {
    for (const auto& level : ladder())
      if (level.save == s) return level.name;
    if (s == nn::all(Save::recompute)) return "recompute everything";
    if (s == nn::all(Save::offload)) return "offload everything";
    return "a choice of its own";
  };
  std::string text;
  for (size_t begin = 0, end; begin < plan.save.size(); begin = end) {
    for (end = begin; end < plan.save.size() && plan.save[end] == plan.save[begin]; ++end) {}
    text += fmt::format("{}layers {}-{}: {}", begin ? "; " : "", begin, end - 1, name(plan.save[begin]));
  }
  return text;
}

double predicted_seconds(const std::vector<Entry>& entries, const DeviceSpec& spec) {
  double compute = 0, lanes[2] = {0, 0};
  std::map<std::pair<const char*, int64_t>, double> arrival;
  for (const Entry& e : entries) {
    if (e.kind == Entry::Kind::ran) {
      const double flops = e.matrix ? spec.flops : spec.flops / 4;  // plain arithmetic runs on the vector units
      compute += spec.op_seconds + std::max(e.flops / flops, double(e.bytes) / spec.memory_bandwidth);
    } else if (e.kind == Entry::Kind::copied) {
      double& lane = lanes[e.tier == Tier::device ? 1 : 0];
      lane = std::max(lane, compute) + double(e.bytes) / spec.link_bandwidth;
      arrival[{e.name, e.offset}] = lane;
    } else if (e.kind == Entry::Kind::waited) {
      const auto it = arrival.find({e.name, e.offset});
      if (it != arrival.end()) compute = std::max(compute, it->second);
    }
  }
  return std::max({compute, lanes[0], lanes[1]});
}

Choice choose(const Budget& budget, const Space& space, const DryRun& dry_run) {
  Choice choice;
  std::optional<double> best_seconds;
  const auto try_plan = [&](Plan plan) {
    const Candidate c{plan, dry_run(plan)};
    ++choice.tried;
    const auto device = c.outcome.peak[size_t(Tier::device)];
    const bool device_fits = device <= budget.device, ram_fits = c.outcome.ram() <= budget.ram;
    choice.device_suffices |= device_fits;
    choice.ram_suffices |= ram_fits;
    if (choice.tried == 1 || device < choice.least.outcome.peak[size_t(Tier::device)]) choice.least = c;
    if (!device_fits || !ram_fits) return;
    const double seconds = c.outcome.step_seconds(plan);
    if (!best_seconds || seconds < *best_seconds) best_seconds = seconds, choice.best = c;
  };
  const auto residents = space.resident_layers ? std::vector<int>{*space.resident_layers}
                         : space.can_stream    ? quarters(space.layers)
                                               : std::vector<int>{space.layers};
  const auto saves = save_choices(space);
  for (int64_t micro = space.batch; micro >= 1; micro = micro == 1 ? 0 : (micro + 1) / 2) {
    if (space.batch % micro) continue;
    for (const int resident : residents)
      for (const auto& save : saves)
        for (const int64_t chunk : {1024, 128}) {
          if (chunk == 1024 && micro * space.tokens_per_row <= 128) continue;  // the same as the smaller one
          try_plan({.micro_batch = micro, .accumulation = space.accumulation * (space.batch / micro), .save = save, .resident_layers = resident,
                    .head_chunk = chunk, .paged_optimizer = space.paged_optimizer});
        }
  }
  return choice;
}

}  // namespace thimble::plan
