// The search: a grid over saves, what lies on the device, windows and micro-batch. Points are dry-run, the fastest that fits is taken.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

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

// Each level for all layers, then each pair of levels over a share of them: what travels is spread evenly, so that the link never rests.
std::vector<std::vector<LayerSave>> save_choices(const Space& space) {
  const int layers = space.layers;
  if (space.save) return {std::vector<LayerSave>(size_t(layers), nn::all(*space.save))};
  if (space.keep_all) return {std::vector<LayerSave>(size_t(layers), ladder().front().save)};
  std::vector<LayerSave> levels;
  for (const Level& level : ladder())
    if (!space.recompute_all || level.recomputes_block) levels.push_back(level.save);
  std::vector<std::vector<LayerSave>> choices;
  for (const LayerSave& level : levels) choices.emplace_back(size_t(layers), level);
  for (size_t a = 0; a < levels.size(); ++a)
    for (size_t b = a + 1; b < levels.size(); ++b)
      for (const int64_t count : shares(layers, 8)) {
        if (count == 0 || count == layers) continue;
        std::vector<LayerSave> saves(size_t(layers), levels[a]);
        for (int64_t l = 0; l < layers; ++l)
          if ((l + 1) * count / layers != l * count / layers) saves[size_t(l)] = levels[b];
        choices.push_back(std::move(saves));
      }
  return choices;
}

// Where what is not activations lies: from all on the device to as little as can be, each as slow as the one before or slower. The embedding
// goes before any layer: its rows of a step are a small part of it, while a streamed layer crosses the link whole, and more than once.
struct Placement {
  int resident, unpacked;
  bool embedding_on_host, paged;
  bool operator==(const Placement&) const = default;
};
std::vector<Placement> placements(const Space& space) {
  auto residents = space.resident_layers ? std::vector<int>{*space.resident_layers} : space.can_stream ? shares(space.layers - space.trained_layers, 4) : std::vector<int>{space.layers};
  if (space.can_stream && !space.resident_layers)
    for (int& r : residents) r += space.trained_layers;
  std::reverse(residents.begin(), residents.end());
  const bool may_unpack = space.packed && residents.front() == space.layers;
  auto unpacked = may_unpack ? shares(space.layers, 8) : std::vector<int>{0};
  std::reverse(unpacked.begin(), unpacked.end());
  std::vector<Placement> all;
  for (const int n : unpacked) all.push_back({residents.front(), n, false, space.paged_optimizer});
  for (const int resident : residents)
    if (space.can_host_embedding || resident != residents.front()) all.push_back({resident, 0, space.can_host_embedding, space.paged_optimizer});
  if (!space.paged_optimizer) all.push_back({residents.back(), 0, space.can_host_embedding, true});
  return all;
}

// Plans of one micro-batch and one choice of saves; the rest may vary: windows from small to large, chunks and what lies on the device from large to
// small.
struct Group {
  Plan base;
  std::vector<int64_t> windows, chunks;
  std::vector<Placement> places;
  Plan plan(int64_t window, bool unpack, int64_t chunk, const Placement& place) const {
    Plan p = base;
    p.window = window, p.unpack_layer = unpack, p.head_chunk = chunk;
    p.resident_layers = place.resident, p.unpacked_layers = place.unpacked, p.embedding_on_host = place.embedding_on_host, p.paged_optimizer = place.paged;
    return p;
  }
  // One of these takes the least of the device, one the least of RAM: what moves needs a ring, which may be larger than what it moves.
  std::vector<Placement> extremes() const {
    std::vector<Placement> all;
    const size_t last = places.size() - 1, packed = size_t(std::find_if(places.begin(), places.end(), [](const Placement& p) { return p.unpacked == 0; }) - places.begin());
    for (const size_t i : {last, std::max(packed, last - std::min<size_t>(last, 1)), std::min(last, packed + 1), packed})
      if (std::find(all.begin(), all.end(), places[i]) == all.end()) all.push_back(places[i]);
    return all;
  }
};

constexpr int64_t largest_window = 8;  // what a larger one would hide of the link is little, and its dry run is long

std::vector<Group> groups(const Space& space) {
  std::vector<Group> all;
  const auto places = placements(space);
  const auto saves = save_choices(space);
  for (int64_t micro = space.batch; micro >= 1; micro = micro == 1 ? 0 : (micro + 1) / 2) {
    if (space.batch % micro || (space.micro_batch && *space.micro_batch != micro)) continue;
    const int64_t accumulation = space.accumulation * (space.batch / micro), most = space.can_stream ? std::min(accumulation, largest_window) : 1;
    std::set<int64_t> windows{1, (most + 1) / 2, most};
    if (space.window && space.can_stream) windows = {std::min(*space.window, accumulation)};
    const bool long_rows = micro * space.tokens_per_row > 128;
    for (const auto& save : saves)
      all.push_back({.base = {.micro_batch = micro, .accumulation = accumulation, .save = save},
                     .windows = {windows.begin(), windows.end()},
                     .chunks = long_rows ? std::vector<int64_t>{1024, 128} : std::vector<int64_t>{128},
                     .places = places});
  }
  return all;
}

// Whether to unpack a layer once, where its matrices serve several products; first what is faster.
std::vector<bool> unpackings(const Space& space, const Group& group, int64_t window) {
  const auto multiplies_again = [](const LayerSave& s) {
    for (const auto n : {nn::q, nn::k, nn::v, nn::middle, nn::gate, nn::up})
      if (s[n] == Save::recompute) return true;
    return false;
  };
  const bool several = window > 1 || std::any_of(group.base.save.begin(), group.base.save.end(), multiplies_again);
  return space.packed && several ? std::vector<bool>{true, false} : std::vector<bool>{false};
}

}  // namespace

const std::vector<Level>& ladder() {
  using namespace nn;
  static const std::vector<Level> levels = [] {
    const auto cheap = with(all(Save::keep), {normed_attention, normed_mlp, act}, Save::recompute);
    const auto no_mlp = with(cheap, {gate, up, xa_gate_up, xa_down}, Save::recompute);
    const auto block = with(all(Save::recompute), {input, rstd_attention, rstd_q, rstd_k, rstd_attention_out, rstd_mlp, rstd_mlp_out}, Save::keep);
    const std::initializer_list<SavedName> of_attention{input, q_plain, k_plain, q, k, v, attended, attention_out, middle, mlp_out};
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

void Outcome::set_bytes(const Ledger& ledger, const DeviceSpec& spec) {
  for (const Tier t : {Tier::device, Tier::pinned, Tier::host}) {
    peak[size_t(t)] = ledger.peak(t);
    at_peak[size_t(t)] = ledger.at_peak(t);
  }
  page_tables = thimble::page_tables(spec, ledger.peak(Tier::pinned));
}

double predicted_seconds(std::span<const Entry> entries, const DeviceSpec& spec) {
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

std::vector<Plan> candidates(const Space& space) {
  std::vector<Plan> plans;
  for (const Group& group : groups(space))
    for (const int64_t window : group.windows)
      for (const bool unpack : unpackings(space, group, window))
        for (const int64_t chunk : group.chunks)
          for (const auto& place : group.places) plans.push_back(group.plan(window, unpack, chunk, place));
  return plans;
}

Choice choose(const Budget& budget, const Space& space, const DryRun& dry_run) {
  Choice choice;
  double best_seconds = INFINITY;
  const auto fits = [&](const Outcome& o) { return o.device() <= budget.device && o.ram() <= budget.ram; };
  for (const Group& group : groups(space)) {
    std::vector<Candidate> tried;
    const auto try_plan = [&](const Plan& plan) -> Outcome {
      for (const auto& t : tried)
        if (t.plan == plan) return t.outcome;
      const Candidate c{plan, dry_run(plan)};
      tried.push_back(c);
      choice.device_suffices |= c.outcome.device() <= budget.device;
      choice.ram_suffices |= c.outcome.ram() <= budget.ram;
      if (++choice.tried == 1 || c.outcome.device() < choice.least.outcome.device()) choice.least = c;
      if (const double seconds = c.outcome.step_seconds(plan); fits(c.outcome) && seconds < best_seconds) best_seconds = seconds, choice.best = c;
      return c.outcome;
    };
    // The least that is taken with things in their places: a larger window or chunk and a layer unpacked take more.
    const auto least = [&](const Placement& place) { return try_plan(group.plan(group.windows.front(), false, group.chunks.back(), place)); };
    const auto may_fit = [&](int64_t window) {
      bool device_fits = false, ram_fits = false;
      for (const auto& place : group.extremes()) {
        if (window != group.windows.front() && least(place).device() > budget.device) {
          ram_fits = true;  // not asked
          continue;
        }
        const auto outcome = try_plan(group.plan(window, false, group.chunks.back(), place));
        if (fits(outcome)) return true;
        device_fits |= outcome.device() <= budget.device;
        ram_fits |= outcome.ram() <= budget.ram;
      }
      return device_fits && ram_fits;
    };
    // From the fastest on. One that fits ends it, and one that is slower than the best: moving more is no faster, nor are smaller chunks. Returns
    // whether unpacking each time, which takes less, need not be tried.
    const auto search = [&](int64_t window, bool unpack) {
      for (const int64_t chunk : group.chunks)
        for (const auto& place : group.places) {
          const bool fastest = chunk == group.chunks.front() && place == group.places.front();
          if (!fastest && !fits(least(place))) continue;
          const Plan plan = group.plan(window, unpack, chunk, place);
          const auto outcome = try_plan(plan);
          if (!fits(outcome) && outcome.step_seconds(plan) < best_seconds) continue;
          if (place == group.places.front()) return fits(outcome) || chunk == group.chunks.front();
          break;
        }
      return false;
    };
    size_t windows = 0;
    while (windows < group.windows.size() && may_fit(group.windows[windows])) ++windows;  // a larger window takes more
    for (size_t i = windows; i-- > 0;)
      for (const bool unpack : unpackings(space, group, group.windows[i]))
        if (search(group.windows[i], unpack)) break;
  }
  return choice;
}

}  // namespace thimble::plan
