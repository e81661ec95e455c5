// The search: a grid over saves, what lies on the device, windows and micro-batch. Points are dry-run, the fastest that fits is taken.
#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <set>
#include <tuple>

#include "device/timeline.h"
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

// Saves of two levels: `count` layers have the second, spread evenly, so that the link never rests.
struct Mix {
  size_t first = 0, second = 0;
  int64_t count = 0;
  std::vector<LayerSave> save;
  bool uniform() const { return count == 0; }
};

// Each level for all layers, then each pair of levels over a share of them.
std::vector<Mix> save_choices(const Space& space) {
  const int layers = space.layers;
  if (space.save) return {{.save = std::vector<LayerSave>(size_t(layers), nn::all(*space.save))}};
  if (space.keep_all) return {{.save = std::vector<LayerSave>(size_t(layers), ladder().front().save)}};
  std::vector<LayerSave> levels;
  for (const Level& level : ladder())
    if (!space.recompute_all || level.recomputes_block) levels.push_back(level.save);
  std::vector<Mix> choices;
  for (size_t a = 0; a < levels.size(); ++a) choices.push_back({.first = a, .second = a, .save = std::vector<LayerSave>(size_t(layers), levels[a])});
  for (size_t a = 0; a < levels.size(); ++a)
    for (size_t b = a + 1; b < levels.size(); ++b)
      for (const int64_t count : shares(layers, 8)) {
        if (count == 0 || count == layers) continue;
        std::vector<LayerSave> saves(size_t(layers), levels[a]);
        for (int64_t l = 0; l < layers; ++l)
          if ((l + 1) * count / layers != l * count / layers) saves[size_t(l)] = levels[b];
        choices.push_back({a, b, count, std::move(saves)});
      }
  return choices;
}

// Where what is not activations lies: from all on the device to as little as can be, each as slow as the one before or slower. The embedding
// goes before any layer: its rows of a step are a small part of it, while a streamed layer crosses the link whole, and more than once.
struct Placement {
  int resident, unpacked;
  bool embedding_on_host, paged;
  int on_disk = 0;
  bool operator==(const Placement&) const = default;
};
// Layers on disk come last: for each number of resident ones a list of its own, in which they pass from pinned memory to disk.
std::vector<std::vector<Placement>> placements(const Space& space) {
  const int staying = space.all_trained() ? 0 : space.trained_layers;
  auto residents = space.resident_layers ? std::vector<int>{*space.resident_layers} : space.can_stream ? shares(space.layers - staying, 4) : std::vector<int>{space.layers};
  if (space.can_stream && !space.resident_layers)
    for (int& r : residents) r += staying;
  std::reverse(residents.begin(), residents.end());
  const bool may_unpack = space.packed && residents.front() == space.layers;
  auto unpacked = may_unpack ? shares(space.layers, 8) : std::vector<int>{0};
  std::reverse(unpacked.begin(), unpacked.end());
  std::vector<Placement> all;
  for (const int n : unpacked) all.push_back({residents.front(), n, false, space.paged_optimizer});
  for (const int resident : residents)
    if (space.can_host_embedding || resident != residents.front()) all.push_back({resident, 0, space.can_host_embedding, space.paged_optimizer});
  if (!space.paged_optimizer) all.push_back({residents.back(), 0, space.can_host_embedding, true});
  std::vector<std::vector<Placement>> lists{std::move(all)};
  const auto add_on_disk = [&](int resident, bool paged) {
    auto& list = lists.emplace_back();
    for (const int n : shares(space.layers - resident, 8))
      if (n > 0) list.push_back({resident, 0, space.can_host_embedding, paged, n});
  };
  if (!space.has_disk || space.all_trained()) return lists;
  for (const int resident : residents)
    if (resident < space.layers) add_on_disk(resident, space.paged_optimizer);
  if (!space.paged_optimizer && residents.back() < space.layers) add_on_disk(residents.back(), true);
  return lists;
}

// More of them save little beside what there is of all tokens, and their dry runs are long.
constexpr int64_t most_chunks = 32, most_head_chunks = 256;

// From the fastest to what takes the least.
struct Chunks {
  int64_t head, tokens;
  bool operator==(const Chunks&) const = default;
};
std::vector<Chunks> chunk_choices(const Space& space, int64_t tokens) {
  if (space.order) return {{space.order->head_chunk, space.order->token_chunk}};
  std::vector<Chunks> all{{tokens > 128 ? 1024 : 128, 0}};
  for (const int64_t n : space.token_chunks)
    if (n < tokens && tokens <= most_chunks * n) all.push_back({all.back().head, n});
  if (tokens > 128 && tokens <= most_head_chunks * 128) all.push_back({128, all.back().tokens});
  return all;
}

// Plans of one micro-batch and one choice of saves; the rest may vary: windows from small to large, chunks and what lies on the device from large to
// small.
struct Group {
  Plan base;
  Mix mix;
  std::vector<int64_t> windows;
  std::vector<Chunks> chunks;
  std::vector<Placement> places;
  bool on_disk() const { return places.front().on_disk > 0; }
  Plan plan(int64_t window, bool unpack, const Chunks& chunk, const Placement& place) const {
    Plan p = base;
    p.window = window, p.unpack_layer = unpack, p.head_chunk = chunk.head, p.token_chunk = chunk.tokens;
    p.resident_layers = place.resident, p.unpacked_layers = place.unpacked, p.embedding_on_host = place.embedding_on_host, p.paged_optimizer = place.paged;
    p.disk_layers = place.on_disk;
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
constexpr int64_t largest_whole_step = 32;  // as one window, after which a trained layer's gradients need not wait in host memory

std::vector<Group> groups(const Space& space, const std::vector<Placement>& places) {
  std::vector<Group> all;
  const auto saves = save_choices(space);
  for (int64_t micro = space.batch; micro >= 1; micro = micro == 1 ? 0 : (micro + 1) / 2) {
    if (space.batch % micro || (space.order && space.order->micro_batch != micro)) continue;
    const int64_t accumulation = space.accumulation * (space.batch / micro), most = space.can_window ? std::min(accumulation, largest_window) : 1;
    std::set<int64_t> windows{1, (most + 1) / 2, most};
    if (space.all_trained() && space.can_window) windows = {1, accumulation <= largest_whole_step ? accumulation : most};
    if (space.window && space.can_window) windows = {std::min(*space.window, accumulation)};
    // In rising order of what they take; a window that is the whole step of trained layers may take less than a smaller one, and stands alone.
    std::vector<std::vector<int64_t>> rising;
    if (!space.all_trained()) rising.emplace_back(windows.begin(), windows.end());
    else for (const int64_t w : windows) rising.push_back({w});
    for (const Mix& mix : saves)
      for (const auto& of : rising)
        all.push_back({.base = {.micro_batch = micro, .accumulation = accumulation, .save = mix.save},
                       .mix = mix,
                       .windows = of,
                       .chunks = chunk_choices(space, micro * space.tokens_per_row),
                       .places = places});
  }
  return all;
}

// Whether to unpack a layer once, where its matrices serve several products; first what is faster.
std::vector<bool> unpackings(const Space& space, const Group& group, int64_t window, const Chunks& chunk) {
  const auto multiplies_again = [](const LayerSave& s) {
    for (const auto n : {nn::q, nn::k, nn::v, nn::middle, nn::gate, nn::up})
      if (s[n] == Save::recompute) return true;
    return false;
  };
  const bool several = window > 1 || chunk.tokens > 0 || std::any_of(group.base.save.begin(), group.base.save.end(), multiplies_again);
  return (space.packed || space.wide) && several ? std::vector<bool>{true, false} : std::vector<bool>{false};
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
    l.push_back({"recompute all but attention, offload its output and the input",
                 with(with(block, {lse}, Save::keep), {input, attended}, Save::offload)});
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
  for (const Tier t : {Tier::device, Tier::pinned, Tier::host, Tier::disk}) {
    peak[size_t(t)] = ledger.peak(t);
    at_peak[size_t(t)] = ledger.at_peak(t);
  }
  page_tables = thimble::page_tables(spec, ledger.peak(Tier::pinned));
}

double predicted_seconds(std::span<const Entry> entries, const DeviceSpec& spec) {
  Timeline timeline(spec);
  for (const Entry& e : entries) timeline.add(e);
  return timeline.end();
}

std::vector<Rung> rungs(const Space& space, const Plan& like, const DryRun& dry_run) {
  std::vector<Rung> all;
  for (const Level& level : ladder()) {
    Plan plan = like;
    plan.save.assign(size_t(space.layers), level.save);
    all.push_back({level.name, {plan, dry_run(plan)}});
  }
  return all;
}

std::vector<Plan> candidates(const Space& space) {
  std::vector<Plan> plans;
  for (const auto& places : placements(space))
    for (const Group& group : groups(space, places))
      for (const int64_t window : group.windows)
        for (const Chunks& chunk : group.chunks)
          for (const bool unpack : unpackings(space, group, window, chunk))
            for (const auto& place : group.places) plans.push_back(group.plan(window, unpack, chunk, place));
  return plans;
}

namespace {

constexpr double rounding = 1e-6;   // of sums of seconds, added in another order
constexpr size_t few_groups = 16;   // to be searched without bounds
constexpr int many_layers = 16;

// One search. What a dry run said is asked again from here; what cannot be faster than the best, or cannot fit, is left out unrun.
class Search {
 public:
  Search(const Budget& budget, const Space& space, const DryRun& dry_run) : budget_(budget), space_(space), dry_run_(dry_run) {}

  Choice run() {
    for (const auto& places : placements(space_)) {
      groups_ = groups(space_, places);
      levels_.clear(), failed_.clear(), enough_.clear(), hints_.clear();
      search_groups();
    }
    return std::move(choice_);
  }

 private:
  void search_groups() {
    // First each level by itself, so that there is a best to beat; then mixes of two, those that may be fastest first.
    std::vector<std::pair<double, const Group*>> order;
    for (const Group& g : groups_) order.emplace_back(least_seconds(g, g.windows.back(), fastest_way(g)), &g);
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return std::pair(!a.second->mix.uniform(), a.first) < std::pair(!b.second->mix.uniform(), b.first);
    });
    for (const auto& [least, group] : order)
      if (may_be_faster(least) && !known_not_to_fit(*group)) search(*group);
  }

  bool fits(const Outcome& o) const { return plan::fits(o, budget_); }
  bool may_be_faster(double least) const { return least * (1 - rounding) < best_seconds_; }

  const Outcome& try_plan(const Plan& plan) {
    const auto it = std::find_if(tried_.begin(), tried_.end(), [&](const Candidate& c) { return c.plan == plan; });
    if (it != tried_.end()) return it->outcome;
    const Candidate& c = tried_.emplace_back(Candidate{plan, dry_run_(plan)});
    choice_.device_suffices |= c.outcome.device() <= budget_.device;
    choice_.ram_suffices |= c.outcome.ram() <= budget_.ram;
    if (++choice_.tried == 1 || c.outcome.device() < choice_.least.outcome.device()) choice_.least = c;
    const double seconds = c.outcome.step_seconds(plan);
    if (fits(c.outcome) && seconds < best_seconds_) best_seconds_ = seconds, choice_.best = c;
    keep_in_front(c, seconds);
    return c.outcome;
  }

  void keep_in_front(const Candidate& c, double seconds) {
    auto& front = choice_.front;
    const auto beats = [](double s, const Outcome& o, double other_s, const Outcome& other) { return s <= other_s && o.device() <= other.device() && o.ram() <= other.ram() && o.disk() <= other.disk(); };
    for (const auto& f : front)
      if (beats(f.outcome.step_seconds(f.plan), f.outcome, seconds, c.outcome)) return;
    std::erase_if(front, [&](const auto& f) { return beats(seconds, c.outcome, f.outcome.step_seconds(f.plan), f.outcome); });
    front.insert(std::find_if(front.begin(), front.end(), [&](const auto& f) { return f.outcome.step_seconds(f.plan) > seconds; }), c);
  }

  // What a level takes by itself, computation and link apart, where all else is as fast as it can be: no mix of two levels takes less than its shares
  // of theirs.
  using Busy = decltype(Outcome::busy);
  struct Level { int64_t micro; size_t level; int64_t window; bool unpack; Busy busy; int64_t device; };
  const Level* level(const Group& g, size_t which, int64_t window, bool unpack) {
    if (groups_.size() <= few_groups) return nullptr;
    for (const Level& l : levels_)
      if (l.micro == g.base.micro_batch && l.level == which && l.window == window && l.unpack == unpack) return &l;
    for (const Group& u : groups_) {
      if (!u.mix.uniform() || u.mix.first != which || u.base.micro_batch != g.base.micro_batch) continue;
      const auto ways = unpackings(space_, u, window, u.chunks.front());
      const bool possible = std::find(ways.begin(), ways.end(), unpack) != ways.end();
      const Outcome& o = try_plan(u.plan(window, possible && unpack, u.chunks.front(), u.places.front()));
      return &levels_.emplace_back(Level{g.base.micro_batch, which, window, unpack, o.busy, o.device()});
    }
    return nullptr;
  }
  Busy least_busy(const Group& g, int64_t window, bool unpack) {
    const Level *a = level(g, g.mix.first, window, unpack), *b = level(g, g.mix.second, window, unpack);
    Busy least{};
    if (!a || !b) return least;
    const double share = double(g.mix.count) / double(space_.layers);
    for (size_t i = 0; i < least.size(); ++i) least[i] = space_.layers_alike ? (1 - share) * a->busy[i] + share * b->busy[i] : std::min(a->busy[i], b->busy[i]);
    return least;
  }
  double least_seconds(const Group& g, int64_t window, bool unpack) {
    const auto busy = least_busy(g, window, unpack);
    return *std::max_element(busy.begin(), busy.end());
  }
  // Of two levels, more layers of the larger one take more. Left out: what has more of what did not fit for want of device memory.
  struct Failed { int64_t micro, window; size_t first, second; int64_t count; };
  bool fastest_way(const Group& g) const { return unpackings(space_, g, g.windows.back(), g.chunks.front()).front(); }
  bool fewer_layers_take_more(const Group& g) {
    const int64_t window = g.windows.back();
    const bool unpack = fastest_way(g);
    return level(g, g.mix.first, window, unpack)->device >= level(g, g.mix.second, window, unpack)->device;
  }
  bool known_not_to_fit(const Group& g) {
    if (groups_.size() <= few_groups || g.mix.uniform()) return false;
    return std::any_of(failed_.begin(), failed_.end(), [&](const Failed& f) {
      return f.micro == g.base.micro_batch && f.window == g.windows.front() && f.first == g.mix.first && f.second == g.mix.second &&
             (fewer_layers_take_more(g) ? g.mix.count <= f.count : g.mix.count >= f.count);
    });
  }
  // By halves: the mixes of these two levels that do not fit either.
  void failed(const Group& g) {
    failed_.push_back({g.base.micro_batch, g.windows.front(), g.mix.first, g.mix.second, g.mix.count});
    if (groups_.size() <= few_groups || g.mix.uniform()) return;
    for (;;) {
      std::vector<const Group*> open;
      for (const Group& other : groups_)
        if (other.base.micro_batch == g.base.micro_batch && other.windows.front() == g.windows.front() && other.mix.first == g.mix.first && other.mix.second == g.mix.second && !other.mix.uniform() &&
            !known_not_to_fit(other) && std::find(enough_.begin(), enough_.end(), &other) == enough_.end())
          open.push_back(&other);
      if (!fewer_layers_take_more(g)) std::reverse(open.begin(), open.end());
      if (open.empty()) return;
      const size_t middle = open.size() / 2;
      if (device_may_fit(*open[middle])) enough_.insert(enough_.end(), open.begin() + std::ptrdiff_t(middle), open.end());
      else failed_.push_back({g.base.micro_batch, g.windows.front(), g.mix.first, g.mix.second, open[middle]->mix.count});
    }
  }

  // What the link carries in and the disk gives, in seconds of a step, because things lie in this place and not in the fastest: the same whatever is saved.
  Busy seconds_of_place(const Group& g, int64_t window, size_t place) {
    Busy more{};
    if (groups_.size() <= few_groups || place == 0) return more;
    const Group& like = link_free_like(g);
    const auto busy = [&](size_t i) { return try_plan(like.plan(window, false, like.chunks.back(), like.places[i])).busy; };
    const Busy there = busy(place), here = busy(0);
    for (const Lane lane : {Lane::in, Lane::disk}) more[1 + size_t(lane)] = there[1 + size_t(lane)] - here[1 + size_t(lane)];
    return more;
  }
  // A level that leaves the link to what lies elsewhere, of the same micro-batches.
  const Group& link_free_like(const Group& g) {
    const auto it = std::find_if(groups_.rbegin(), groups_.rend(), [&](const Group& u) {
      return u.base.micro_batch == g.base.micro_batch && u.windows == g.windows && u.mix.uniform() &&
             std::none_of(u.mix.save.front().begin(), u.mix.save.front().end(), [](Save s) { return s == Save::offload; });
    });
    return it == groups_.rend() ? g : *it;
  }
  // How many places, from the fastest on, may be faster than the best; each is as slow as the one before or slower.
  size_t places_worth_trying(const Group& g, int64_t window) {
    const auto ways = unpackings(space_, g, window, g.chunks.front());
    Busy least = least_busy(g, window, ways.front());
    if (ways.size() > 1) {
      const auto other = least_busy(g, window, ways.back());
      for (size_t i = 0; i < least.size(); ++i) least[i] = std::min(least[i], other[i]);
    }
    const auto worth = [&](size_t place) {
      Busy all = seconds_of_place(g, window, place);
      for (size_t i = 0; i < all.size(); ++i) all[i] += least[i];
      return may_be_faster(*std::max_element(all.begin(), all.end()));
    };
    size_t low = 0, high = g.places.size();  // all below low are worth it, none from high on
    while (low < high) {
      const size_t middle = (low + high) / 2;
      if (worth(middle)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // The least that a window takes with things in a place: a larger chunk and a layer unpacked take more.
  const Outcome& least(const Group& g, int64_t window, const Placement& place) { return try_plan(g.plan(window, false, g.chunks.back(), place)); }
  bool device_may_fit(const Group& g) {
    const auto extremes = g.extremes();
    return std::any_of(extremes.begin(), extremes.end(), [&](const auto& place) { return least(g, g.windows.front(), place).device() <= budget_.device; });
  }
  // The first below n of which it holds, where it holds of all that follow; else n. Begins at the hint, in steps that double, and leaves what it found there.
  template <class F>
  static size_t first_that(F&& holds, size_t n, std::optional<size_t>& hint) {
    size_t low = 0, high = n, at = std::min(hint.value_or(n - 1), n - 1);
    for (size_t step = 1; low < high; step *= 2) {
      const bool held = holds(at);
      (held ? high : low) = held ? at : at + 1;
      if (!held && high == n && low < n && !holds(n - 1)) low = n;
      const size_t middle = (low + high) / 2;
      at = held ? std::max(high - std::min(high, step), middle) : std::min(low + step - 1, middle);
    }
    hint = low;
    return low;
  }
  // The first of so many places, from the fastest on, where a window may fit; else that many. From place to place more lies in RAM and less on the device,
  // or more on disk and less in RAM, so that halving finds it; but where layers are few a ring may be larger than what moved, and all are asked.
  size_t first_place(const Group& g, int64_t window, size_t places) {
    const auto relieved = [&](const Placement& p) {
      const Outcome& o = least(g, window, p);
      return g.on_disk() ? o.ram() <= budget_.ram : o.device() <= budget_.device;
    };
    if (space_.layers >= many_layers) {
      const size_t first = first_that([&](size_t i) { return relieved(g.places[i]); }, places, hints_[{window, g.mix.first, g.mix.second}]);
      return first == places || !fits(least(g, window, g.places[first])) ? places : first;
    }
    const auto end = g.places.begin() + std::ptrdiff_t(places);
    return size_t(std::find_if(g.places.begin(), end, [&](const auto& p) { return fits(least(g, window, p)); }) - g.places.begin());
  }

  void search(const Group& group) {
    std::vector<std::pair<int64_t, size_t>> worth;  // windows, from large to small, and places of each
    for (auto window = group.windows.rbegin(); window != group.windows.rend(); ++window)
      if (const size_t places = places_worth_trying(group, *window)) worth.emplace_back(*window, places);
    if (worth.empty()) return;
    const bool anywhere = worth.back() == std::pair(group.windows.front(), group.places.size());
    if (anywhere && !device_may_fit(group)) return failed(group);
    for (const auto& [window, places] : worth) search(group, window, places);
  }
  void search(const Group& group, int64_t window, size_t places) {
    std::optional<size_t> place;
    for (const Chunks& chunk : group.chunks) {
      const auto ways = unpackings(space_, group, window, chunk);
      for (const bool unpack : ways) {
        if (!may_be_faster(least_seconds(group, window, unpack))) continue;
        if (!place) place = first_place(group, window, places);
        if (*place == places || search(group, window, chunk, unpack, *place, unpack == ways.front())) return;
      }
    }
  }
  // From the fastest on. One that fits ends it, and one that is slower than the best: moving more is no faster, nor are smaller chunks. Returns
  // whether this holds of all that follows of the window.
  bool search(const Group& group, int64_t window, const Chunks& chunk, bool unpack, size_t first, bool fastest_way) {
    for (size_t i = first; i < group.places.size(); ++i) {
      const Plan plan = group.plan(window, unpack, chunk, group.places[i]);
      const Outcome& outcome = try_plan(plan);
      if ((group.on_disk() ? outcome.disk() > budget_.disk : outcome.ram() > budget_.ram) && space_.layers >= many_layers) break;  // more with every place that follows
      if (!fits(outcome) && outcome.step_seconds(plan) < best_seconds_) continue;
      if (space_.all_trained() && space_.paged_optimizer) continue;  // states that visit at a streamed layer's turn cost less than at the end of the step
      return i == 0 && fastest_way;
    }
    return false;
  }

  const Budget& budget_;
  const Space& space_;
  const DryRun& dry_run_;
  std::vector<Group> groups_;  // of one list of places
  Choice choice_;
  double best_seconds_ = INFINITY;
  std::deque<Candidate> tried_;
  std::deque<Level> levels_;
  std::vector<Failed> failed_;
  std::map<std::tuple<int64_t, size_t, size_t>, std::optional<size_t>> hints_;  // of a window and two levels: where the mix before it began to fit
  std::vector<const Group*> enough_;  // of the device's memory there is for these
};

}  // namespace

Choice choose(const Budget& budget, const Space& space, const DryRun& dry_run) { return Search(budget, space, dry_run).run(); }

}  // namespace thimble::plan
