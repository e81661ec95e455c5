// Where the weights lie: each layer one slab, resident on the device, or streamed through a Ring from pinned memory, or from disk through a second
// Ring of pinned slots; the caller sees acquire(layer) and release(layer) and cannot tell which. Quantises while loading, one matrix at a time.
// Where there is room, a packed layer lies unpacked: the numbers that its codes stand for, in the type of the activations, so that no product unpacks them again.
#pragma once
#include <memory>
#include <span>

#include "comm/rank.h"
#include "device/ring.h"
#include "store/param_table.h"
#include "store/weight_source.h"

namespace thimble::store {

// How many layers stay on the device. Streamed ones are spread evenly, so that each copy hides behind resident layers' work: over the frozen layers,
// where some are, else over the trained ones, which are updated at their turns; and so are those on disk over the streamed ones.
struct Residency {
  int layers = 0, resident = 0;
  int slots = 2;  // of each ring that there is
  bool embedding_on_host = false;  // its rows are gathered straight from pinned memory
  int unpacked = 0;  // packed layers that lie unpacked, the first ones; only where all are resident
  int on_disk = 0;   // of the streamed layers; none of them is trained
  int on_processor = 0;  // of those in pinned memory: few tokens are multiplied there, none of them is trained
};

class WeightStore {
 public:
  // Takes slabs, homes and the ring's slots from the rank's arenas.
  WeightStore(comm::Rank&, std::shared_ptr<const ParamTable>, const Residency&);

  // Reads every parameter, packs it, puts it where it lives. Scratch: a strip of rows on the device, one staging buffer in pinned memory.
  // On a phantom nothing is read and `source` may be null.
  void load(const WeightSource* source);

  // The layer's weights in the table's order, ready for the compute stream. Starts fetching `next` (the layer wanted after it; -1: none).
  // `few`: for products of few tokens alone, so that what the processor multiplies stays where it is.
  std::span<const quant::Weight> acquire(int layer, int next, bool few = false);
  void release(int layer, bool changed = false);  // changed: its new values go home

  bool is_resident(int layer) const { return tiers_[size_t(layer)] == Tier::device; }
  bool on_processor(int layer) const { return !at_processor_[size_t(layer)].empty(); }
  // The layer's weights where acquire put them last, and where they live, which is what the host may touch once settled.
  std::span<const quant::Weight> now(int layer) const { return views_[size_t(layer)]; }
  std::vector<quant::Weight> at_home(int layer) const;
  void settle();             // what is on its way home has come
  void changed_at_home();    // from outside: what is on the device is stale

  const quant::Weight& outside(size_t i) const { return outside_[i]; }
  bool on_host(const ParamSpec& p) const { return residency_.embedding_on_host && p.role == Role::embedding; }
  const ParamTable& table() const { return *table_; }

 private:
  struct Held { quant::FormatId format; DType dtype; };
  Held held(int layer, const ParamSpec&) const;  // the table's, or as it lies unpacked
  std::vector<quant::Weight> lay_out(int layer, std::byte* base) const;
  int64_t slab(int layer) const;  // its bytes
  void load_one(const WeightSource* source, const ParamSpec&, const quant::Weight& to, Tensor staging);
  void read_and_pack(const WeightSource* source, const ParamSpec&, const quant::Weight& to, Tensor staging);
  void load_numbers(const WeightSource* source, const ParamSpec&, int64_t first, Tensor to, Tensor staging);  // rows [first, ...) of the matrix
  void load_packed(const WeightSource* source, const ParamSpec&, const quant::Weight& to, Tensor staging);
  Tensor home_of(int layer) const { return homes_[size_t(layer)]; }
  bool on_disk(int layer) const { return tiers_[size_t(layer)] == Tier::disk; }
  void put(int layer, Tensor slab);          // where the layer's weights are from now on
  void bring(int layer);                     // a streamed layer starts on its way to the device
  void read_ahead(int layer, int direction);  // and so do layers on disk, to pinned memory

  comm::Rank& rank_;
  std::shared_ptr<const ParamTable> table_;
  Residency residency_;
  std::vector<Tier> tiers_;                           // by layer
  std::vector<quant::Weight> outside_;
  std::vector<Tensor> homes_;                         // a layer's slab, in that tier
  std::vector<std::vector<quant::Weight>> views_;     // resident: fixed; streamed: set by acquire
  std::vector<std::vector<quant::Weight>> at_processor_;  // by layer: where it lies, if the processor multiplies few tokens there; else empty
  int held_there_ = -1;                               // the layer that was acquired so
  std::unique_ptr<Ring> disk_ring_, ring_;            // the last one reads from the first, and goes before it
};

int64_t slab_bytes(const std::vector<ParamSpec>&);

}  // namespace thimble::store
