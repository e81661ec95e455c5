// Recording is a push_back: a dry run of 80 layers must stay in the milliseconds.
#include "device/ledger.h"

#include <fmt/core.h>

#include <cstring>

namespace thimble {

bool Entry::operator==(const Entry& o) const {
  return kind == o.kind && tier == o.tier && to == o.to && use == o.use && matrix == o.matrix && layer == o.layer && offset == o.offset &&
         bytes == o.bytes && flops == o.flops && (name == o.name || std::strcmp(name, o.name) == 0);
}

std::string to_string(const Entry& e) {
  switch (e.kind) {
    case Entry::Kind::took: return fmt::format("layer {} took {} bytes at {} of {} for {} ({})", e.layer, e.bytes, e.offset, name_of(e.tier), e.name, name_of(e.use));
    case Entry::Kind::gave_back: return fmt::format("layer {} gave back {} from {}", e.layer, name_of(e.tier), e.offset);
    case Entry::Kind::ran: return fmt::format("layer {} ran {}: {} flops, {} bytes", e.layer, e.name, e.flops, e.bytes);
    case Entry::Kind::copied: return fmt::format("layer {} copied {} item {}, {} bytes, {} to {}", e.layer, e.name, e.offset, e.bytes, name_of(e.tier), name_of(e.to));
    case Entry::Kind::waited: return fmt::format("layer {} waited for {} item {}", e.layer, e.name, e.offset);
  }
  return "?";
}

void Ledger::took(Tier tier, Use use, const char* name, int64_t offset, int64_t bytes) {
  Stack& s = stacks_[size_t(tier)];
  s.top = offset + aligned(bytes);
  s.alive.push_back({use, offset, aligned(bytes)});
  s.by_use[size_t(use)] += aligned(bytes);
  if (s.top > s.peak) s.peak = s.top, s.at_peak = s.by_use;
  if (recording_) entries_.push_back({.kind = Entry::Kind::took, .tier = tier, .use = use, .layer = layer_, .name = name, .offset = offset, .bytes = bytes});
}

void Ledger::gave_back(Tier tier, int64_t offset) {
  Stack& s = stacks_[size_t(tier)];
  s.top = offset;
  for (; !s.alive.empty() && s.alive.back().offset >= offset; s.alive.pop_back()) s.by_use[size_t(s.alive.back().use)] -= s.alive.back().bytes;
  if (recording_) entries_.push_back({.kind = Entry::Kind::gave_back, .tier = tier, .layer = layer_, .offset = offset});
}

void Ledger::ran(const Work& w) {
  if (recording_)
    entries_.push_back({.kind = Entry::Kind::ran, .matrix = w.matrix, .layer = layer_, .name = w.name, .bytes = int64_t(w.bytes), .flops = w.flops});
}

void Ledger::copied(Tier from, Tier to, const char* name, int64_t item, int64_t bytes) {
  if (recording_) entries_.push_back({.kind = Entry::Kind::copied, .tier = from, .to = to, .layer = layer_, .name = name, .offset = item, .bytes = bytes});
}

void Ledger::waited(const char* name, int64_t item) {
  if (recording_) entries_.push_back({.kind = Entry::Kind::waited, .layer = layer_, .name = name, .offset = item});
}

std::string difference(const Ledger& a, const Ledger& b) {
  const auto &x = a.entries(), &y = b.entries();
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
    if (!(x[i] == y[i])) return fmt::format("entry {}: '{}' beside '{}'", i, to_string(x[i]), to_string(y[i]));
  if (x.size() != y.size()) return fmt::format("{} entries beside {}", x.size(), y.size());
  return "";
}

}  // namespace thimble
