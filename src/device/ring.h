// N slots on the device for items whose home is another tier: the only double-buffer machine of the project. Weights that stream in,
// activations that are offloaded and come back, optimizer states that visit: all are prefetch(i), acquire(i), release(i). Slots in pinned memory, for
// items at home on disk, are lent to a ring on the device.
#pragma once
#include <utility>
#include <vector>

#include "device/stream.h"

namespace thimble {

class Ring {
 public:
  // Takes slots * slot_bytes from the arena: of the device, whose items' homes are pinned; or of pinned memory, whose items' homes are on disk. `name`
  // must be a literal; rings that an item goes through one after the other have the same.
  Ring(Stream&, Arena&, const char* name, int slots, int64_t slot_bytes);
  ~Ring();  // waits for copies under way: the bytes they touch may be given back right after, also when an error unwinds
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Starts bringing `home` (the item's bytes in its own tier) into a slot, unless it is there or on its way. Takes the slot least recently used
  // that nobody holds; does nothing when all are held. `ready`: when home's bytes are there.
  void prefetch(int item, Tensor home, Ticket ready = 0);
  // The item's bytes on the device, ready for the compute stream; prefetches first if nobody did.
  Tensor acquire(int item, Tensor home);
  // A slot for an item that is about to be made here; its old content leaves first.
  Tensor acquire_to_fill(int item, int64_t bytes);
  // The item may leave the slot. With `write_back` its bytes go home once `after` has passed, and it counts as present until the slot is wanted.
  // Returns when they are there.
  void release(int item);
  Ticket release(int item, Tensor write_back, Ticket after = 0);
  // The item's bytes for copies alone, which read them when they are ready; the slot is kept for them until `read`.
  struct Loan { Tensor bytes; Ticket ready; };
  Loan lend(int item, Tensor home);
  void give_back(int item, Ticket read);
  bool has(int item) const;       // or it is on its way
  Ticket arrival(int item) const; // of an item that it has; 0: in the past of the compute stream
  // Waits for all that is on its way home, before the host reads it or the step ends.
  void drain();
  void forget();  // the homes were changed from outside: what the slots hold is stale

  int slots() const { return int(slots_.size()); }

 private:
  // leaves: its bytes are being copied home; 0 once the compute stream is behind that. home: the same copy, for whoever reads the home.
  struct Slot { Tensor bytes; int item = -1; bool held = false; Ticket arrives = 0, leaves = 0, home = 0, freed = 0; int64_t last_use = 0; };
  Slot* find(int item);
  const Slot* find(int item) const { return const_cast<Ring*>(this)->find(item); }
  Slot* take_slot(int item);
  void give_away(Slot&);

  Stream& stream_;
  const char* name_;
  Tier from_, to_;  // of homes, of slots
  Lane in_, out_;
  std::vector<Slot> slots_;
  std::vector<std::pair<int, Ticket>> written_;  // items that may still be on their way home from a slot given away since
  int64_t clock_ = 0;
};

}  // namespace thimble
