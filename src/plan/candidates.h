// The grid that is searched: mixes of two levels of saving, windows, chunks of tokens, and where what is no activation lies.
#pragma once
#include <algorithm>

#include "plan/plan.h"

namespace thimble::plan {

// Saves of two levels: `count` layers have the second, spread evenly, so that the link never rests.
struct Mix {
  size_t first = 0, second = 0;
  int64_t count = 0;
  std::vector<nn::LayerSave> save;
  bool uniform() const { return count == 0; }
};

// Where what is not activations lies: from all on the device to as little as can be, each as slow as the one before or slower. The embedding
// goes before any layer: its rows of a step are a small part of it, while a streamed layer crosses the link whole, and more than once.
struct Placement {
  int resident, unpacked;
  bool embedding_on_host, paged;
  int on_disk = 0;
  bool operator==(const Placement&) const = default;
};

// From the fastest to what takes the least.
struct Chunks {
  int64_t head, tokens;
  bool operator==(const Chunks&) const = default;
};

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
  // Of places: one of these takes the least of the device, one the least of RAM, since what moves needs a ring, which may be larger than what it moves.
  std::vector<size_t> extremes() const {
    std::vector<size_t> all;
    const size_t last = places.size() - 1, packed = size_t(std::find_if(places.begin(), places.end(), [](const Placement& p) { return p.unpacked == 0; }) - places.begin());
    for (const size_t i : {last, std::max(packed, last - std::min<size_t>(last, 1)), std::min(last, packed + 1), packed})
      if (std::find(all.begin(), all.end(), i) == all.end()) all.push_back(i);
    return all;
  }
};

// All groups of a list of places; the lists; and whether to unpack a layer once, where its matrices serve several products: first what is faster.
std::vector<Group> groups(const Space&, const std::vector<Placement>&);
std::vector<std::vector<Placement>> placements(const Space&);
std::vector<bool> unpackings(const Space&, const Group&, int64_t window, const Chunks&);

}  // namespace thimble::plan
