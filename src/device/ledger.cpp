// Recording is a push_back: a dry run of 80 layers must stay in the milliseconds.
#include "device/ledger.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "device/timeline.h"

namespace thimble {

bool Entry::operator==(const Entry& o) const {
  return kind == o.kind && tier == o.tier && to == o.to && use == o.use && matrix == o.matrix && layer == o.layer && offset == o.offset &&
         bytes == o.bytes && flops == o.flops && (name == o.name || std::strcmp(name, o.name) == 0);
}

std::string to_string(const Entry& e) {
  switch (e.kind) {
    case Entry::Kind::took: return fmt::format("layer {} took {} bytes at {} of {} for {} ({})", e.layer, e.bytes, e.offset, name_of(e.tier), e.name, name_of(e.use));
    case Entry::Kind::gave_back: return fmt::format("layer {} gave back {} from {}", e.layer, name_of(e.tier), e.offset);
    case Entry::Kind::ran: return fmt::format("layer {} ran {}{}: {} flops, {} bytes", e.layer, e.name, e.tier == Tier::device ? "" : " on the processor", e.flops, e.bytes);
    case Entry::Kind::copied: return fmt::format("layer {} copied {} item {}, {} bytes, {} to {}", e.layer, e.name, e.offset, e.bytes, name_of(e.tier), name_of(e.to));
    case Entry::Kind::waited: return fmt::format("layer {} waited for {} item {}", e.layer, e.name, e.offset);
  }
  return "?";
}

void Ledger::write(const Entry& e) {
  if (timeline_) timeline_->add(e);
  if (recording_) entries_.push_back(e);
}

void Ledger::took(Tier tier, Use use, const char* name, int64_t offset, int64_t bytes) {
  Stack& s = stacks_[size_t(tier)];
  s.top = offset + aligned(bytes);
  s.alive.push_back({use, offset, aligned(bytes)});
  s.by_use[size_t(use)] += aligned(bytes);
  if (s.top > s.peak) s.peak = s.top, s.at_peak = s.by_use;
  if (recording_) write({.kind = Entry::Kind::took, .tier = tier, .use = use, .layer = layer_, .name = name, .offset = offset, .bytes = bytes});
}

void Ledger::gave_back(Tier tier, int64_t offset) {
  Stack& s = stacks_[size_t(tier)];
  s.top = offset;
  for (; !s.alive.empty() && s.alive.back().offset >= offset; s.alive.pop_back()) s.by_use[size_t(s.alive.back().use)] -= s.alive.back().bytes;
  if (recording_) write({.kind = Entry::Kind::gave_back, .tier = tier, .layer = layer_, .offset = offset});
}

void Ledger::ran(const Work& w, Tier where) {
  if (wanted()) write({.kind = Entry::Kind::ran, .tier = where, .matrix = w.matrix, .layer = layer_, .name = w.name, .bytes = int64_t(w.bytes), .flops = w.flops});
}

void Ledger::copied(Tier from, Tier to, const char* name, int64_t item, int64_t bytes) {
  if (wanted()) write({.kind = Entry::Kind::copied, .tier = from, .to = to, .layer = layer_, .name = name, .offset = item, .bytes = bytes});
}

void Ledger::waited(const char* name, int64_t item) {
  if (wanted()) write({.kind = Entry::Kind::waited, .layer = layer_, .name = name, .offset = item});
}

// The peaks of a passage are found by beginning the tiers' own anew; end_passage puts the larger ones back.
Ledger::PassageBegin Ledger::begin_passage() {
  PassageBegin begin{entries_.size(), std::exchange(recording_, true), {}};
  for (size_t t = 0; t < tier_count; ++t) {
    Stack& s = stacks_[t];
    begin.before[t] = {s.top, s.peak, s.at_peak};
    s.peak = s.top, s.at_peak = s.by_use;
  }
  return begin;
}

Passage Ledger::end_passage(const PassageBegin& begin) {
  Passage p;
  p.entries.assign(entries_.begin() + std::ptrdiff_t(begin.entries), entries_.end());
  recording_ = begin.recording;
  if (!recording_) entries_.resize(begin.entries);
  for (size_t t = 0; t < tier_count; ++t) {
    Stack& s = stacks_[t];
    const auto& before = begin.before[t];
    check(s.top == before.top, "a passage leaves the arenas as it found them");
    p.tiers[t] = {s.top, s.peak - s.top, s.at_peak};
    for (size_t u = 0; u < use_count; ++u) p.tiers[t].at_peak[u] -= s.by_use[u];
    if (before.peak >= s.peak) s.peak = before.peak, s.at_peak = before.at_peak;
  }
  const bool copies = std::any_of(p.entries.begin(), p.entries.end(), [](const Entry& e) { return e.kind == Entry::Kind::copied || e.kind == Entry::Kind::waited; });
  if (!timeline_ || copies) return p;
  p.seconds = 0;
  for (const Entry& e : p.entries)
    if (e.kind == Entry::Kind::ran) p.seconds += timeline_->seconds_of(e);
  return p;
}

void Ledger::repeat(const Passage& p) {
  for (size_t t = 0; t < tier_count; ++t) {
    Stack& s = stacks_[t];
    if (s.top + p.tiers[t].peak <= s.peak) continue;
    s.peak = s.top + p.tiers[t].peak, s.at_peak = s.by_use;
    for (size_t u = 0; u < use_count; ++u) s.at_peak[u] += p.tiers[t].at_peak[u];
  }
  const bool one_by_one = timeline_ && p.seconds < 0;
  if (timeline_ && !one_by_one) timeline_->compute(p.seconds);
  if (!recording_ && !one_by_one) return;
  for (Entry e : p.entries) {
    e.layer = layer_;
    if (e.kind == Entry::Kind::took || e.kind == Entry::Kind::gave_back) e.offset += stacks_[size_t(e.tier)].top - p.tiers[size_t(e.tier)].top;
    if (one_by_one) timeline_->add(e);
    if (recording_) entries_.push_back(e);
  }
}

std::string difference(const Ledger& a, const Ledger& b) {
  const auto &x = a.entries(), &y = b.entries();
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
    if (!(x[i] == y[i])) return fmt::format("entry {}: '{}' beside '{}'", i, to_string(x[i]), to_string(y[i]));
  if (x.size() != y.size()) return fmt::format("{} entries beside {}", x.size(), y.size());
  return "";
}

}  // namespace thimble
