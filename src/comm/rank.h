// All that one rank owns: its device, its ledger, one arena per tier, its compute stream. Layers get a Rank& and nothing else of the machine.
#pragma once
#include <deque>

#include "device/stream.h"

namespace thimble::comm {

struct Capacity {
  int64_t device = 0, pinned = 0, host = 0, disk = 0;
};
// For a phantom: more than any plan takes. It is address space, not memory.
inline constexpr Capacity boundless{int64_t{1} << 42, int64_t{1} << 42, int64_t{1} << 42, int64_t{1} << 42};

// All that the entries of a stretch of work depend on, but where its arenas stand and which layer it is of.
struct Kind {
  const char* what;  // a literal
  std::array<int64_t, 6> of{};
  bool operator==(const Kind&) const = default;
  uint64_t hash() const {
    uint64_t h = std::hash<const char*>{}(what);
    for (const int64_t x : of) h = (h ^ uint64_t(x)) * 0x9E3779B97F4A7C15u, h ^= h >> 29;
    return h;
  }
};

class Rank {
 public:
  Rank(Device& d, const Capacity& c)
      : device(d), memory(d, Tier::device, c.device, ledger), pinned(d, Tier::pinned, c.pinned, ledger), host(d, Tier::host, c.host, ledger),
        disk(d, Tier::disk, c.disk, ledger), stream{d, ledger, memory, nullptr, &pinned} {}
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  Device& device;
  Ledger ledger;
  Arena memory, pinned, host, disk;
  Stream stream;

  DType compute() const { return device.spec().compute; }  // the type of activations
  bool is_phantom() const { return device.is_phantom(); }

  // Runs the work; on a phantom only for the first of its kind, whose entries are written again for the others: that is what makes a dry run of
  // 80 layers as cheap as one of two. The work leaves the arenas as it found them and goes through no ring. What it returns says what it left
  // behind besides, and is returned for all of its kind.
  template <class F>
  int64_t once_a_kind(const Kind& kind, F&& work) {
    if (!is_phantom()) return work();
    const uint64_t hash = kind.hash();
    for (const auto& p : passages_)
      if (p.hash == hash && p.kind == kind) return ledger.repeat(p.passage), p.left;
    const auto begin = ledger.begin_passage();
    const int64_t left = work();
    passages_.push_back({hash, kind, ledger.end_passage(begin), left});
    return left;
  }

  // Whole tensors between pinned memory and the device; finished when it returns.
  void upload(const char* name, Tensor to, Tensor from_pinned) {
    check(to.bytes() == from_pinned.bytes(), "an upload keeps the number of bytes");
    ledger.copied(Tier::pinned, Tier::device, name, 0, to.bytes());
    const Ticket there = device.copy(Lane::in, to.data, from_pinned.data, to.bytes(), device.now());
    device.wait(there);
    device.host_wait(there);
  }
  void download(const char* name, Tensor to_pinned, Tensor from) {
    device.wait(begin_download(name, to_pinned, from));
    device.synchronize();
  }
  // The host may read it once it has waited for the ticket.
  Ticket begin_download(const char* name, Tensor to_pinned, Tensor from) {
    check(from.bytes() == to_pinned.bytes(), "a download keeps the number of bytes");
    ledger.copied(Tier::device, Tier::pinned, name, 0, from.bytes());
    return device.copy(Lane::out, to_pinned.data, from.data, from.bytes(), device.now());
  }

 private:
  struct Known { uint64_t hash; Kind kind; Passage passage; int64_t left; };
  std::deque<Known> passages_;
};

}  // namespace thimble::comm
