// N slots on the device for items whose home is another tier: the only double-buffer machine of the project. Weights that stream in,
// activations that are offloaded and come back, optimizer states that visit: all are prefetch(i), acquire(i), release(i).
#pragma once
#include <utility>
#include <vector>

#include "device/stream.h"

namespace thimble {

class Ring {
 public:
  // Takes slots * slot_bytes from `device`. `name` must be a literal.
  Ring(Stream&, Arena& device, const char* name, int slots, int64_t slot_bytes);
  ~Ring();  // waits for copies under way: the bytes they touch may be given back right after, also when an error unwinds
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // Starts bringing `home` (the item's bytes in its own tier) into a slot, unless it is there or on its way. Takes the slot least recently used
  // that nobody holds; does nothing when all are held.
  void prefetch(int item, Tensor home);
  // The item's bytes on the device, ready for the compute stream; prefetches first if nobody did.
  Tensor acquire(int item, Tensor home);
  // A slot for an item that is about to be made here; its old content leaves first.
  Tensor acquire_to_fill(int item, int64_t bytes);
  // The item may leave the slot. With `write_back` its bytes go home, and it counts as present until the slot is wanted.
  void release(int item);
  void release(int item, Tensor write_back);
  // Waits for all that is on its way home, before the host reads it or the step ends.
  void drain();
  void forget();  // the homes were changed from outside: what the slots hold is stale

  int slots() const { return int(slots_.size()); }

 private:
  // leaves: its bytes are being copied home; 0 once the compute stream is behind that. home: the same copy, for whoever reads the home.
  struct Slot { Tensor bytes; int item = -1; bool held = false; Ticket arrives = 0, leaves = 0, home = 0, freed = 0; int64_t last_use = 0; };
  Slot* find(int item);
  Slot* take_slot(int item);
  void give_away(Slot&);

  Stream& stream_;
  const char* name_;
  std::vector<Slot> slots_;
  std::vector<std::pair<int, Ticket>> written_;  // items that may still be on their way home from a slot given away since
  int64_t clock_ = 0;
};

}  // namespace thimble
