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

// Counts 0, 1/parts, ... of n, each once, in rising order.
std::vector<int> shares(int n, int parts) {
  std::vector<int> counts;
  for (int i = 0; i <= parts; ++i) counts.push_back(n * i / parts);
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts;
}

// Each level for all layers, and each pair of levels over a share of them: what travels is spread evenly, so that the link never rests.
std::vector<std::vector<LayerSave>> save_choices(const Space& space) {
  const int layers = space.layers;
  if (space.save) return {std::vector<LayerSave>(size_t(layers), nn::all(*space.save))};
  if (space.keep_all) return {std::vector<LayerSave>(size_t(layers), ladder().front().save)};
  std::vector<std::vector<LayerSave>> choices;
  for (size_t a = 0; a < ladder().size(); ++a) {
    if (space.recompute_all && !ladder()[a].recomputes_block) continue;
    choices.emplace_back(size_t(layers), ladder()[a].save);
    for (size_t b = a + 1; b < ladder().size(); ++b) {
      if (space.recompute_all && !ladder()[b].recomputes_block) continue;
      for (const int64_t count : shares(layers, 8)) {
        if (count == 0 || count == layers) continue;
        std::vector<LayerSave> saves(size_t(layers), ladder()[a].save);
        for (int64_t l = 0; l < layers; ++l)
          if ((l + 1) * count / layers != l * count / layers) saves[size_t(l)] = ladder()[b].save;
        choices.push_back(std::move(saves));
      }
    }
  }
  return choices;
}

}  // namespace

const std::vector<Level>& ladder() {
  using namespace nn;
  static const std::vector<Level> levels = [] {
    const auto cheap = with(all(Save::keep), {normed_attention, normed_mlp, act}, Save::recompute);
    const auto no_mlp = with(cheap, {gate, up, xa_gate_up, xa_down}, Save::recompute);
    const auto block = with(all(Save::recompute), {input, rstd_attention, rstd_mlp}, Save::keep);
    const std::initializer_list<SavedName> of_attention{input, q, k, v, attended, middle};
    std::vector<Level> l;
    l.push_back({"keep all", all(Save::keep)});
    l.push_back({"recompute norms and act", cheap});
    l.push_back({"recompute norms and act, offload gate and up", with(cheap, {gate, up}, Save::offload)});
    l.push_back({"recompute norms and act, offload the rest", with(with(cheap, {gate, up}, Save::offload), of_attention, Save::offload)});
    l.push_back({"recompute mlp", no_mlp});
    l.push_back({"recompute mlp, offload the rest", with(no_mlp, of_attention, Save::offload)});
    l.push_back({"recompute block", block, true});
    l.push_back({"recompute block, offload input", with(all(Save::recompute), {input}, Save::offload), true});
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
  std::vector<std::pair<LayerSave, int>> kinds;
  for (const auto& s : plan.save) {
    auto it = std::find_if(kinds.begin(), kinds.end(), [&](const auto& k) { return k.first == s; });
    if (it == kinds.end()) it = kinds.insert(kinds.end(), {s, 0});
    ++it->second;
  }
  std::string text;
  for (const auto& [save, count] : kinds)
    text += kinds.size() == 1 ? fmt::format("all layers: {}", name(save)) : fmt::format("{}{} of {} layers: {}", text.empty() ? "" : "; ", count, plan.save.size(), name(save));
  return text + (kinds.size() > 1 ? "; spread evenly" : "");
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
  const auto fits = [&](const Outcome& o) { return o.peak[size_t(Tier::device)] <= budget.device && o.ram() <= budget.ram; };
  const auto try_plan = [&](Plan plan) {
    const Candidate c{plan, dry_run(plan)};
    const Outcome outcome = c.outcome;
    ++choice.tried;
    const auto device = c.outcome.peak[size_t(Tier::device)];
    const bool device_fits = device <= budget.device, ram_fits = c.outcome.ram() <= budget.ram;
    choice.device_suffices |= device_fits;
    choice.ram_suffices |= ram_fits;
    if (choice.tried == 1 || device < choice.least.outcome.peak[size_t(Tier::device)]) choice.least = c;
    if (!fits(outcome)) return outcome;
    const double seconds = outcome.step_seconds(plan);
    if (!best_seconds || seconds < *best_seconds) best_seconds = seconds, choice.best = c;
    return outcome;
  };
  auto residents = space.resident_layers ? std::vector<int>{*space.resident_layers} : space.can_stream ? shares(space.layers, 4) : std::vector<int>{space.layers};
  std::reverse(residents.begin(), residents.end());  // of plans that take the same time the one that streams least is tried first
  const auto saves = save_choices(space);
  for (int64_t micro = space.batch; micro >= 1; micro = micro == 1 ? 0 : (micro + 1) / 2) {
    if (space.batch % micro || (space.micro_batch && *space.micro_batch != micro)) continue;
    for (const auto& save : saves) {
      bool roomy = false;  // larger chunks fitted, all that may be resident was: smaller ones are no faster
      for (const int64_t chunk : {1024, 128}) {
        if (roomy || (chunk == 1024 && micro * space.tokens_per_row <= 128)) continue;
        for (const int resident : residents) {
          const auto outcome = try_plan({.micro_batch = micro, .accumulation = space.accumulation * (space.batch / micro), .save = save,
                                         .resident_layers = resident, .head_chunk = chunk, .paged_optimizer = space.paged_optimizer});
          if (!fits(outcome)) continue;
          roomy = resident == residents.front();
          break;  // nor is streaming more
        }
      }
    }
  }
  return choice;
}

}  // namespace thimble::plan
