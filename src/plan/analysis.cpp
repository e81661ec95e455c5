// One walk over the entries: a timeline says when, a stack per tier says what is alive.
#include "plan/analysis.h"

#include <algorithm>
#include <cstring>

#include "device/timeline.h"

namespace thimble::plan {
namespace {

constexpr size_t most_points = 1500;  // of a timeline

struct Held { const char* name; Use use; int64_t offset, bytes; };

std::vector<Alive> by_name(const std::vector<Held>& stack) {
  std::vector<Alive> all;
  for (const Held& h : stack) {
    auto it = std::find_if(all.begin(), all.end(), [&](const Alive& a) { return a.use == h.use && a.name == h.name; });
    if (it == all.end()) it = all.insert(all.end(), {h.name, h.use});
    it->bytes += h.bytes;
    ++it->count;
  }
  std::sort(all.begin(), all.end(), [](const Alive& a, const Alive& b) { return a.bytes > b.bytes; });
  return all;
}

// Of each stretch of points the highest, so that no peak is lost.
std::vector<Point> thinned(std::vector<Point> points) {
  if (points.size() <= most_points) return points;
  const size_t stride = (points.size() + most_points - 1) / most_points;
  std::vector<Point> few;
  for (size_t i = 0; i < points.size(); i += stride)
    few.push_back(*std::max_element(points.begin() + std::ptrdiff_t(i), points.begin() + std::ptrdiff_t(std::min(points.size(), i + stride)),
                                    [](const Point& a, const Point& b) { return a.bytes < b.bytes; }));
  return few;
}

}  // namespace

Analysis analyse(const Ledger& ledger, size_t step, const DeviceSpec& spec) {
  Analysis a;
  Timeline timeline(spec);
  std::array<std::vector<Held>, tier_count> stacks;
  std::array<int64_t, tier_count> top{}, peak{};
  const auto& entries = ledger.entries();
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& e = entries[i];
    const bool in_step = i >= step;
    const auto t = size_t(e.tier);
    switch (e.kind) {
      case Entry::Kind::took:
        stacks[t].push_back({e.name, e.use, e.offset, aligned(e.bytes)});
        top[t] = e.offset + aligned(e.bytes);
        if (top[t] > peak[t]) {
          peak[t] = top[t];
          if (e.tier == Tier::device) a.at_peak_seconds = in_step ? timeline.now() : -1;
          if (top[t] == ledger.peak(e.tier)) a.alive_at_peak[t] = by_name(stacks[t]);
        }
        break;
      case Entry::Kind::gave_back:
        while (!stacks[t].empty() && stacks[t].back().offset >= e.offset) stacks[t].pop_back();
        top[t] = e.offset;
        break;
      default: break;
    }
    if (!in_step) continue;
    if (e.kind == Entry::Kind::took || e.kind == Entry::Kind::gave_back) {
      a.timeline[t].push_back({timeline.now(), top[t], e.layer});
      continue;
    }
    const double before = timeline.now();
    timeline.add(e);
    if (e.kind == Entry::Kind::waited) a.time.waiting += timeline.now() - before;
    if (e.kind != Entry::Kind::ran) continue;
    const auto cost = timeline.cost_of(e);
    a.time.fixed += cost.fixed;
    (cost.by_bytes >= cost.by_flops ? a.time.memory : e.matrix ? a.time.matrix : a.time.vector) += std::max(cost.by_bytes, cost.by_flops);
    auto op = std::find_if(a.ops.begin(), a.ops.end(), [&](const OpTime& o) { return o.name == e.name || std::strcmp(o.name, e.name) == 0; });
    if (op == a.ops.end()) op = a.ops.insert(a.ops.end(), {e.name});
    op->seconds += cost.seconds();
    ++op->calls;
  }
  a.time.waiting += timeline.end() - timeline.now();
  a.time.copies_in = timeline.lane(Lane::in), a.time.copies_out = timeline.lane(Lane::out), a.time.disk = timeline.lane(Lane::disk);
  std::sort(a.ops.begin(), a.ops.end(), [](const OpTime& x, const OpTime& y) { return x.seconds > y.seconds; });
  for (auto& points : a.timeline) points = thinned(std::move(points));
  return a;
}

Bound bound_of(const TimeShares& t) {
  const std::pair<double, Bound> all[] = {{t.matrix + t.vector, Bound::compute}, {t.memory, Bound::memory}, {t.waiting, t.disk > std::max(t.copies_in, t.copies_out) ? Bound::disk : Bound::link}, {t.fixed, Bound::overhead}};
  return std::max_element(std::begin(all), std::end(all), [](const auto& a, const auto& b) { return a.first < b.first; })->second;
}

const char* name_of(Bound b) {
  constexpr const char* names[] = {"compute", "memory bandwidth", "the link to host memory", "the fixed cost of each op", "the disk"};
  return names[int(b)];
}

}  // namespace thimble::plan
