// The truth of what a step took and ran: every allocation, op, copy and wait in program order, on phantom and real alike.
// Two runs are the same computation in the same memory exactly when their ledgers are equal, entry by entry.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "device/spec.h"

namespace thimble {

// What bytes are for: the rows of a plan.
enum class Use : uint8_t { weights, adapters, gradients, optimizer, activations, scratch, ring, batch, cache };
constexpr int use_count = 9;
constexpr const char* name_of(Use u) {
  constexpr const char* names[] = {"weights", "adapters", "gradients", "optimizer", "activations", "scratch", "rings", "batch", "kv cache"};
  return names[int(u)];
}

// One op's work: its floor is max(flops / peak, bytes / bandwidth). `bytes` counts each operand once.
struct Work {
  const char* name;   // a literal: the op, as the profile shows it
  double flops = 0;
  double bytes = 0;
  bool matrix = false;  // flops on the matrix units
};

struct Entry {
  enum class Kind : uint8_t { took, gave_back, ran, copied, waited };
  Kind kind;
  Tier tier = Tier::device, to = Tier::device;  // of memory; of a copy: from, to; of an op: where it ran, on the device or beside pinned memory
  Use use = Use::scratch;
  bool matrix = false;
  int16_t layer = -1;       // the layer being computed, -1 outside all layers
  const char* name = "";    // a literal
  int64_t offset = 0;       // took, gave_back: place in its arena; copied, waited: the ring's item
  int64_t bytes = 0;
  double flops = 0;
  bool operator==(const Entry&) const;  // names by their text
};

std::string to_string(const Entry&);

class Timeline;

// What a stretch of a program wrote, from heights of the arenas that it left as it found them. Such a stretch may be written again: at other
// heights, for another layer, the same.
struct Passage {
  struct Heights { int64_t top = 0, peak = 0; std::array<int64_t, use_count> at_peak{}; };  // peaks above top
  std::vector<Entry> entries;
  std::array<Heights, tier_count> tiers;
  double seconds = -1;  // of its ops; negative: not known, or it holds copies
};

class Ledger {
 public:
  void took(Tier, Use, const char* name, int64_t offset, int64_t bytes);
  void gave_back(Tier, int64_t offset);  // everything at and above the offset
  void ran(const Work&, Tier where = Tier::device);
  void copied(Tier from, Tier to, const char* name, int64_t item, int64_t bytes);
  void waited(const char* name, int64_t item);

  // Between the two, entries are recorded in any case.
  struct PassageBegin { size_t entries; bool recording; std::array<Passage::Heights, tier_count> before; };
  PassageBegin begin_passage();
  Passage end_passage(const PassageBegin&);
  void repeat(const Passage&);

  void at_layer(int layer) { layer_ = int16_t(layer); }
  int layer() const { return layer_; }
  void follow(Timeline* t) { timeline_ = t; }  // tells it every op, copy and wait from now on; null: nobody
  void record(bool on) { recording_ = on; }  // a long run keeps its peaks but not its entries
  void clear_entries() { entries_.clear(); }

  const std::vector<Entry>& entries() const { return entries_; }
  int64_t peak(Tier t) const { return stacks_[size_t(t)].peak; }
  int64_t in_use(Tier t) const { return stacks_[size_t(t)].top; }

  // What was alive when the tier was fullest, in bytes by use; padding counts with the tensor that it follows.
  const std::array<int64_t, use_count>& at_peak(Tier t) const { return stacks_[size_t(t)].at_peak; }

 private:
  struct Held { Use use; int64_t offset, bytes; };
  struct Stack {
    int64_t top = 0, peak = 0;
    std::vector<Held> alive;
    std::array<int64_t, use_count> by_use{}, at_peak{};
  };
  std::vector<Entry> entries_;
  std::array<Stack, tier_count> stacks_;
  bool wanted() const { return recording_ || timeline_; }
  void write(const Entry&);

  int16_t layer_ = -1;
  bool recording_ = true;
  Timeline* timeline_ = nullptr;
};

// The first difference between two ledgers in words, empty when they are equal.
std::string difference(const Ledger& a, const Ledger& b);

}  // namespace thimble
