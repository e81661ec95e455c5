// Slots are chosen by program order alone (least recently used), so phantom and real take the same slots and log the same copies.
#include "device/ring.h"

#include <algorithm>

namespace thimble {

Ring::Ring(Stream& stream, Arena& arena, const char* name, int slots, int64_t slot_bytes) : stream_(stream), name_(name), to_(arena.tier()) {
  check(slots > 0, "a ring has at least one slot");
  check(to_ == Tier::device || to_ == Tier::pinned, "a ring's slots lie on the device, or in pinned memory");
  const bool on_device = to_ == Tier::device;
  from_ = on_device ? Tier::pinned : Tier::disk;
  in_ = on_device ? Lane::in : Lane::disk;
  out_ = on_device ? Lane::out : Lane::disk;
  for (int i = 0; i < slots; ++i) slots_.push_back({.bytes = arena.take(Use::ring, name, DType::u8, {slot_bytes})});
}

Ring::~Ring() {
  try {
    drain();
    stream_.device.synchronize();
  } catch (const Error&) {
    // A device that failed has already said so, in the error that brought us here; its copies have ended.
  }
}

Ring::Slot* Ring::find(int item) {
  for (Slot& s : slots_)
    if (s.item == item) return &s;
  return nullptr;
}

void Ring::give_away(Slot& s) {
  if (s.home) written_.emplace_back(s.item, s.home);
  s.item = -1;
  s.home = 0;
}

Ring::Slot* Ring::take_slot(int item) {
  Slot* oldest = nullptr;
  for (Slot& s : slots_)
    if (!s.held && (!oldest || s.last_use < oldest->last_use)) oldest = &s;
  if (!oldest) return nullptr;
  give_away(*oldest);
  oldest->item = item;
  oldest->last_use = ++clock_;
  return oldest;
}

void Ring::prefetch(int item, Tensor home, Ticket ready) {
  if (Slot* there = find(item)) {
    there->last_use = ++clock_;  // wanted soon: an older item makes room first
    return;
  }
  Slot* s = take_slot(item);
  if (!s) return;
  check(home.bytes() <= s->bytes.bytes(), "an item fits its ring's slot");
  stream_.ledger.copied(from_, to_, name_, item, home.bytes());
  const auto written = std::find_if(written_.begin(), written_.end(), [&](const auto& w) { return w.first == item; });
  if (written != written_.end()) {
    if (!ready) ready = written->second;  // it may still be on its way home
    written_.erase(written);
  }
  const Ticket after = s->leaves ? s->leaves : s->freed;  // what leaves does so after the slot was freed
  s->arrives = stream_.device.copy(in_, s->bytes.data, home.data, home.bytes(), after, ready);
  s->leaves = 0;
}

Tensor Ring::acquire(int item, Tensor home) {
  prefetch(item, home);
  Slot* s = find(item);
  check(s, "a ring has a free slot for what is acquired");
  stream_.ledger.waited(name_, item);
  stream_.device.wait(s->arrives);
  stream_.device.wait(s->leaves);  // the caller may write into it
  s->arrives = s->leaves = 0;      // behind the compute stream, as all that follows
  s->held = true;
  s->last_use = ++clock_;
  return {s->bytes.data, home.dtype, home.shape};
}

Tensor Ring::acquire_to_fill(int item, int64_t bytes) {
  Slot* s = find(item);
  if (!s) s = take_slot(item);
  check(s, "a ring has a free slot for what is filled");
  check(bytes <= s->bytes.bytes(), "an item fits its ring's slot");
  stream_.ledger.waited(name_, item);
  stream_.device.wait(s->arrives);  // fetched and not used: its bytes must not land on what is filled in
  stream_.device.wait(s->leaves);
  s->arrives = s->leaves = 0;
  s->held = true;
  s->last_use = ++clock_;
  return {s->bytes.data, DType::u8, {bytes}};
}

void Ring::release(int item) {
  Slot* s = find(item);
  check(s && s->held, "what is released was acquired");
  s->held = false;
  s->freed = stream_.device.now();
}

Ticket Ring::release(int item, Tensor write_back, Ticket after) {
  release(item);
  Slot* s = find(item);
  check(write_back.bytes() <= s->bytes.bytes(), "what is written back lay in the slot");
  std::erase_if(written_, [&](const auto& w) { return w.first == item; });  // an older way home is followed on the same lane
  stream_.ledger.copied(to_, from_, name_, item, write_back.bytes());
  s->leaves = s->home = stream_.device.copy(out_, write_back.data, s->bytes.data, write_back.bytes(), s->freed, after);
  return s->leaves;
}

Ring::Loan Ring::lend(int item, Tensor home) {
  prefetch(item, home);
  const Slot* s = find(item);
  check(s, "a ring has a free slot for what is lent");
  return {{s->bytes.data, home.dtype, home.shape}, s->arrives ? s->arrives : s->leaves};
}

void Ring::give_back(int item, Ticket read) {
  Slot* s = find(item);
  check(s && !s->held, "what is given back was lent");
  s->freed = read;
  s->leaves = 0;  // whoever read waited for it
}

bool Ring::has(int item) const { return find(item) != nullptr; }

Ticket Ring::arrival(int item) const {
  const Slot* s = find(item);
  check(s, "what arrives has a slot");
  return s->arrives;
}

void Ring::drain() {
  for (Slot& s : slots_) {
    stream_.device.wait(s.leaves);
    stream_.device.wait(s.arrives);
  }
}

void Ring::forget() {
  drain();
  for (Slot& s : slots_) {
    check(!s.held, "nobody holds a slot of a ring that forgets");
    give_away(s);
  }
}

}  // namespace thimble
