// The search: candidates are dry-run, and the fastest that fits is taken. What earlier dry runs say of a candidate, that it cannot be faster or cannot
// fit, is asked first: most are never run.
#include <cmath>
#include <map>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "plan/candidates.h"

namespace thimble::plan {
namespace {

constexpr double rounding = 1e-6;   // of sums of seconds, added in another order
constexpr size_t few_groups = 16;   // to be searched without bounds
constexpr int many_layers = 16;     // a ring is smaller than what moves through it

struct Hash {
  size_t operator()(const Plan& p) const {
    size_t h = std::hash<std::string_view>{}({reinterpret_cast<const char*>(p.save.data()), p.save.size() * sizeof(nn::LayerSave)});
    for (const int64_t x : {p.micro_batch, p.window, int64_t{p.unpack_layer}, int64_t{p.resident_layers}, int64_t{p.disk_layers}, int64_t{p.unpacked_layers}, p.head_chunk,
                            p.token_chunk, int64_t{p.paged_optimizer}, int64_t{p.embedding_on_host}})
      h = (h ^ size_t(x)) * 0x9E3779B97F4A7C15u;
    return h;
  }
};

using Busy = decltype(Outcome::busy);
double seconds_of(const Busy& busy) { return *std::max_element(busy.begin(), busy.end()); }

// No plan takes less: of the computation and of each lane of copies, and of RAM.
struct Floor {
  Busy busy{};
  double ram = 0;
};

class Search {
 public:
  Search(const Budget& budget, const Space& space, const DryRun& dry_run) : budget_(budget), space_(space), dry_run_(dry_run) {}

  Choice run() {
    for (const auto& places : placements(space_)) {
      groups_ = groups(space_, places);
      alone_.clear(), moved_.clear(), known_.clear(), hints_.clear();
      search_groups();
    }
    return std::move(choice_);
  }

 private:
  void search_groups() {
    // First each level by itself, so that there is a best to beat; then mixes of two, those that may be fastest first.
    std::vector<std::pair<double, const Group*>> order;
    for (const Group& g : groups_) order.emplace_back(seconds_of(floor(g, g.windows.back(), fastest_way(g), 0).busy), &g);
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return std::pair(!a.second->mix.uniform(), a.first) < std::pair(!b.second->mix.uniform(), b.first);
    });
    for (const auto& [least, group] : order)
      if (may_be_faster(least)) search(*group);
  }

  bool fits(const Outcome& o) const { return plan::fits(o, budget_); }
  bool may_be_faster(double least) const { return least * (1 - rounding) < best_seconds_; }

  const Outcome& try_plan(const Plan& plan) {
    const auto [it, is_new] = tried_.try_emplace(plan);
    if (!is_new) return it->second;
    const Candidate c{plan, it->second = dry_run_(plan)};
    choice_.device_suffices |= c.outcome.device() <= budget_.device;
    choice_.ram_suffices |= c.outcome.ram() <= budget_.ram;
    if (++choice_.tried == 1 || c.outcome.device() < choice_.least.outcome.device()) choice_.least = c;
    const double seconds = c.outcome.step_seconds(plan);
    if (fits(c.outcome) && seconds < best_seconds_) best_seconds_ = seconds, choice_.best = c;
    keep_in_front(c, seconds);
    return it->second;
  }

  void keep_in_front(const Candidate& c, double seconds) {
    auto& front = choice_.front;
    const auto beats = [](double s, const Outcome& o, double other_s, const Outcome& other) { return s <= other_s && o.device() <= other.device() && o.ram() <= other.ram() && o.disk() <= other.disk(); };
    for (const auto& f : front)
      if (beats(f.outcome.step_seconds(f.plan), f.outcome, seconds, c.outcome)) return;
    std::erase_if(front, [&](const auto& f) { return beats(seconds, c.outcome, f.outcome.step_seconds(f.plan), f.outcome); });
    front.insert(std::find_if(front.begin(), front.end(), [&](const auto& f) { return f.outcome.step_seconds(f.plan) > seconds; }), c);
  }

  // Time.

  bool fastest_way(const Group& g) const { return unpackings(space_, g, g.windows.back(), g.chunks.front()).front(); }
  // The fastest that a level does by itself in a place: the group as it is, chunks as large as they can be.
  const Outcome& fastest(const Group& level, int64_t window, bool unpack, size_t place) {
    const auto ways = unpackings(space_, level, window, level.chunks.front());
    return try_plan(level.plan(window, unpack && ways.front(), level.chunks.front(), level.places[place]));
  }
  const Group* level(const Group& g, size_t which) const {
    for (const Group& u : groups_)
      if (u.mix.uniform() && u.mix.first == which && u.base.micro_batch == g.base.micro_batch && u.windows == g.windows) return &u;
    return nullptr;
  }
  // What a level takes in the fastest place. No mix of two levels takes less than its shares of theirs, nor other RAM.
  struct Alone { Busy busy; double ram; int64_t device; };
  const Alone& alone(const Group& g, size_t which, int64_t window, bool unpack) {
    const auto [it, is_new] = alone_.try_emplace({g.base.micro_batch, g.windows.front(), which, window, unpack});
    if (is_new) {
      const Outcome& o = fastest(*level(g, which), window, unpack, 0);
      it->second = {o.busy, double(o.ram()), o.device()};
    }
    return it->second;
  }
  // What a level takes more in a place than in the fastest. Of those levels that offload nothing the first one: no other multiplies less, so that the others
  // unpack as much, or more; what moves to RAM is the same for all.
  const Floor& moved(const Group& g, int64_t window, bool unpack, size_t place) {
    const auto [it, is_new] = moved_.try_emplace({g.base.micro_batch, g.windows.front(), window, unpack, place});
    if (is_new) {
      const Group& first = *level(g, 0);
      const Outcome &there = fastest(first, window, unpack, place), &here = fastest(first, window, unpack, 0);
      for (size_t i = 0; i < here.busy.size(); ++i) it->second.busy[i] = there.busy[i] - here.busy[i];
      it->second.ram = double(there.ram() - here.ram());
    }
    return it->second;
  }
  Floor floor(const Group& g, int64_t window, bool unpack, size_t place) {
    if (groups_.size() <= few_groups) return {};
    const Alone &a = alone(g, g.mix.first, window, unpack), &b = alone(g, g.mix.second, window, unpack);
    const Floor& more = moved(g, window, unpack, place);
    const double share = double(g.mix.count) / double(space_.layers);
    const auto mixed = [&](double x, double y, double otherwise) { return space_.layers_alike ? (1 - share) * x + share * y : otherwise; };
    Floor f;
    for (size_t i = 0; i < f.busy.size(); ++i) f.busy[i] = mixed(a.busy[i], b.busy[i], std::min(a.busy[i], b.busy[i])) + more.busy[i];
    f.ram = mixed(a.ram, b.ram, 0) + more.ram;
    return f;
  }
  // How many places, from the fastest on, may be faster than the best and find RAM enough; each is as slow as the one before or slower, and takes as much
  // of RAM or more.
  size_t places_worth_trying(const Group& g, int64_t window) {
    const auto ways = unpackings(space_, g, window, g.chunks.front());
    const auto worth = [&](size_t place) {
      return std::any_of(ways.begin(), ways.end(), [&](bool unpack) {
        const Floor f = floor(g, window, unpack, place);
        return may_be_faster(seconds_of(f.busy)) && (!choice_.best || g.on_disk() || f.ram * (1 - rounding) <= double(budget_.ram));
      });
    };
    size_t low = 0, high = g.places.size();  // all below low are worth it, none from high on
    while (low < high) {
      const size_t middle = (low + high) / 2;
      if (worth(middle)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // Memory.

  // The least that a window takes with things in a place: a larger chunk and a layer unpacked take more.
  const Outcome& least(const Group& g, int64_t window, size_t place) { return try_plan(g.plan(window, false, g.chunks.back(), g.places[place])); }

  // Of the mixes of two levels, more layers of the larger one take more of the device, and so do larger windows of one group and faster places. What was
  // found of one is known of others.
  struct Found { int64_t window, demand; size_t place; };
  struct Known { std::vector<Found> enough, too_little; };
  using Kin = std::tuple<int64_t, int64_t, size_t, size_t>;  // micro-batch, smallest window, the two levels
  static Kin kin_of(const Group& g) { return {g.base.micro_batch, g.windows.front(), g.mix.first, g.mix.second}; }
  int64_t demand(const Group& g) {
    if (groups_.size() <= few_groups || g.mix.uniform()) return 0;
    const auto device = [&](size_t which) { return alone(g, which, g.windows.back(), fastest_way(g)).device; };
    return device(g.mix.first) >= device(g.mix.second) ? space_.layers - g.mix.count : g.mix.count;
  }
  std::optional<bool> known(const Group& g, int64_t window, size_t place) {
    const Known& of = known_[kin_of(g)];
    const int64_t d = demand(g);
    for (const Found& f : of.enough)
      if (f.window >= window && f.demand >= d && f.place <= place) return true;
    for (const Found& f : of.too_little)
      if (f.window <= window && f.demand <= d && f.place >= place) return false;
    return {};
  }
  void found(const Group& g, bool enough, int64_t window, size_t place) {
    Known& of = known_[kin_of(g)];
    (enough ? of.enough : of.too_little).push_back({window, demand(g), place});
  }
  // Is there enough of the device?
  bool device_holds(const Group& g, int64_t window, size_t place) {
    if (const auto already = known(g, window, place)) return *already;
    const bool holds = least(g, window, place).device() <= budget_.device;
    found(g, holds, window, place);
    return holds;
  }
  // In some place, which counts as the last one.
  bool device_holds_somewhere(const Group& g) {
    const int64_t window = g.windows.front();
    const size_t last = g.places.size() - 1;
    if (const auto already = known(g, window, last)) return *already;
    const auto extremes = g.extremes();
    const bool holds = std::any_of(extremes.begin(), extremes.end(), [&](size_t place) { return least(g, window, place).device() <= budget_.device; });
    found(g, holds, window, last);
    return holds;
  }
  // There is not: by halves, the mixes of these two levels for which there is neither.
  template <class F>
  void find_kin_that_fail(const Group& g, int64_t window, size_t place, F&& holds) {
    if (groups_.size() <= few_groups || g.mix.uniform()) return;
    for (;;) {
      std::vector<const Group*> open;  // from the largest to the smallest
      for (const Group& kin : groups_)
        if (kin_of(kin) == kin_of(g) && !known(kin, window, place) && places_worth_trying(kin, window) > 0) open.push_back(&kin);
      if (open.empty()) return;
      std::sort(open.begin(), open.end(), [&](const Group* a, const Group* b) { return demand(*a) > demand(*b); });
      holds(*open[open.size() / 2]);
    }
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
    if (space_.layers < many_layers) {
      size_t place = 0;
      while (place < places && !fits(least(g, window, place))) ++place;
      return place;
    }
    const auto holds = [&](size_t place) { return g.on_disk() ? least(g, window, place).ram() <= budget_.ram : device_holds(g, window, place); };
    const size_t first = holds(places - 1) ? first_that(holds, places, hints_[{window, g.mix.first, g.mix.second}]) : places;
    if (first < places) return fits(least(g, window, first)) ? first : places;
    if (!g.on_disk()) find_kin_that_fail(g, window, places - 1, [&](const Group& kin) { device_holds(kin, window, places - 1); });
    return places;
  }

  void search(const Group& group) {
    std::vector<std::pair<int64_t, size_t>> worth;  // windows, from large to small, and places of each
    for (auto window = group.windows.rbegin(); window != group.windows.rend(); ++window)
      if (const size_t places = places_worth_trying(group, *window)) worth.emplace_back(*window, places);
    if (worth.empty()) return;
    const bool anywhere = worth.back() == std::pair(group.windows.front(), group.places.size());
    if (anywhere && !device_holds_somewhere(group))
      return find_kin_that_fail(group, group.windows.front(), group.places.size() - 1, [&](const Group& kin) { device_holds_somewhere(kin); });
    for (const auto& [window, places] : worth) search(group, window, places);
  }
  void search(const Group& group, int64_t window, size_t places) {
    std::optional<size_t> place;
    for (const Chunks& chunk : group.chunks) {
      const auto ways = unpackings(space_, group, window, chunk);
      for (const bool unpack : ways) {
        if (!may_be_faster(seconds_of(floor(group, window, unpack, place.value_or(0)).busy))) continue;
        if (!place) place = first_place(group, window, places);
        if (*place == places || search(group, window, chunk, unpack, *place, unpack == ways.front())) return;
      }
    }
  }
  // From the fastest on. One that fits ends it, and one that is slower than the best: moving more is no faster, nor are smaller chunks. Returns
  // whether this holds of all that follows of the window.
  bool search(const Group& group, int64_t window, const Chunks& chunk, bool unpack, size_t first, bool fastest_way) {
    for (size_t i = first; i < group.places.size() && may_be_faster(seconds_of(floor(group, window, unpack, i).busy)); ++i) {
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
  std::unordered_map<Plan, Outcome, Hash> tried_;
  std::map<std::tuple<int64_t, int64_t, size_t, int64_t, bool>, Alone> alone_;  // of a micro-batch, the smallest window, a level; a window, unpacked once?
  std::map<std::tuple<int64_t, int64_t, int64_t, bool, size_t>, Floor> moved_;  // of a micro-batch, the smallest window; a window, unpacked once?, a place
  std::map<Kin, Known> known_;
  std::map<std::tuple<int64_t, size_t, size_t>, std::optional<size_t>> hints_;  // of a window and two levels: where the mix before it began to fit
};

}  // namespace

Choice choose(const Budget& budget, const Space& space, const DryRun& dry_run) { return Search(budget, space, dry_run).run(); }

}  // namespace thimble::plan
