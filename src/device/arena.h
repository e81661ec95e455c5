// Bytes of one tier, taken like plates from a stack. A training step is a stack: forward pushes layers, backward pops them, so
// there is no free list, no fragmentation, addresses follow from program order, and the peak is one number.
#pragma once
#include <vector>

#include "base/tensor.h"
#include "device/device.h"
#include "device/ledger.h"

namespace thimble {

class Arena {
 public:
  // Reserves `capacity` bytes at once. On a phantom take a huge capacity and read the peak from the ledger.
  Arena(Device&, Tier, int64_t capacity, Ledger&);

  // The next bytes of the stack, aligned, not cleared. `name` must be a literal. Throws Error (does_not_fit) that names the largest
  // holders when the arena is full.
  Tensor take(Use, const char* name, DType, Shape);

  int64_t used() const { return top_; }
  int64_t capacity() const { return storage_.bytes(); }
  Tier tier() const { return tier_; }
  void give_back_to(int64_t mark);  // pops everything at and above the mark

 private:
  [[noreturn]] void out_of_budget(const char* name, int64_t bytes) const;
  struct Held { const char* name; Use use; int64_t offset, bytes; };
  Tier tier_;
  Ledger& ledger_;
  Storage storage_;
  std::vector<Held> held_;
  int64_t top_ = 0;
};

// What is taken inside a scope is given back at its end.
class Scope {
 public:
  explicit Scope(Arena& arena) : arena_(arena), mark_(arena.used()) {}
  ~Scope() { if (arena_.used() != mark_) arena_.give_back_to(mark_); }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  Arena& arena_;
  int64_t mark_;
};

}  // namespace thimble
