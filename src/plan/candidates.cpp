// What there is to choose from. None of it depends on a budget.
#include "plan/candidates.h"

#include <algorithm>
#include <set>

namespace thimble::plan {
namespace {

using nn::LayerSave;
using nn::Save;

// Counts 0, 1/parts, ... of n, each once, in rising order.
std::vector<int> shares(int n, int parts) {
  std::vector<int> counts;
  for (int i = 0; i <= parts; ++i) counts.push_back(n * i / parts);
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  return counts;
}

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

}  // namespace

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

namespace {

// More of them save little beside what there is of all tokens, and their dry runs are long.
constexpr int64_t most_chunks = 32, most_head_chunks = 256;

std::vector<Chunks> chunk_choices(const Space& space, int64_t tokens) {
  if (space.order) return {{space.order->head_chunk, space.order->token_chunk}};
  std::vector<Chunks> all{{tokens > 128 ? 1024 : 128, 0}};
  for (const int64_t n : space.token_chunks)
    if (n < tokens && tokens <= most_chunks * n) all.push_back({all.back().head, n});
  if (tokens > 128 && tokens <= most_head_chunks * 128) all.push_back({128, all.back().tokens});
  return all;
}

constexpr int64_t largest_window = 8;  // what a larger one would hide of the link is little, and its dry run is long
constexpr int64_t largest_whole_step = 32;  // as one window, after which a trained layer's gradients need not wait in host memory

}  // namespace

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

std::vector<bool> unpackings(const Space& space, const Group& group, int64_t window, const Chunks& chunk) {
  const auto multiplies_again = [](const LayerSave& s) {
    for (const auto n : {nn::q, nn::k, nn::v, nn::middle, nn::gate, nn::up})
      if (s[n] == Save::recompute) return true;
    return false;
  };
  const bool several = window > 1 || chunk.tokens > 0 || std::any_of(group.base.save.begin(), group.base.save.end(), multiplies_again);
  return (space.packed || space.wide) && several ? std::vector<bool>{true, false} : std::vector<bool>{false};
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

}  // namespace thimble::plan
