// What fits, and how: limits per tier, the decisions of a run, and what a dry run of these decisions says of bytes and time.
#pragma once
#include <array>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device/device.h"
#include "device/ledger.h"
#include "nn/saved.h"

namespace thimble::plan {

// Bytes that a run may take. pinned and host memory come out of one number, the machine's RAM.
struct Budget {
  int64_t device = 0, ram = 0, disk = 0;
};

// The decisions that change in which order gradients are summed; a run that goes on keeps them.
struct SumOrder {
  int64_t micro_batch = 1, token_chunk = 0, head_chunk = 256;
  bool operator==(const SumOrder&) const = default;
};

// The decisions. None changes a number that the run computes, but for the order of sums.
struct Plan {
  int64_t micro_batch = 1;      // sequences at a time
  int64_t accumulation = 1;     // micro-batches of one optimizer step
  int64_t window = 1;           // of these, how many a layer runs before the next one does; what is left over makes a smaller window
  bool unpack_layer = false;    // a layer's matrices once for the window, not each for its product
  std::vector<nn::LayerSave> save;
  int resident_layers = 0;
  int disk_layers = 0;            // of the others, those that lie on disk
  int unpacked_layers = 0;        // of packed ones, where all are resident
  int64_t head_chunk = 256;       // tokens whose logits exist at once
  int64_t token_chunk = 0;        // tokens at a time in the MLP and in attention's projections of its input; 0: all
  SumOrder order() const { return {micro_batch, token_chunk, head_chunk}; }
  bool paged_optimizer = false;   // states at home in pinned memory
  bool embedding_on_host = false; // the table lies in pinned memory, its rows are gathered from there
  bool operator==(const Plan&) const = default;
};

// What a dry run found.
struct Outcome {
  std::array<int64_t, tier_count> peak{};
  std::array<std::array<int64_t, use_count>, tier_count> at_peak{};
  int64_t page_tables = 0;  // of pinned memory, on the device beside its arena
  double window_seconds = 0, rest_seconds = 0, update_seconds = 0;  // of a full window, of the smaller one that is left over, of the update
  std::array<double, 1 + lane_count> busy{};  // seconds of a step that the computation and each lane of copies take by themselves
  int64_t tokens = 0;  // of one micro-batch
  double step_seconds(const Plan& p) const { return window_seconds * double(p.accumulation / p.window) + rest_seconds + update_seconds; }
  double tokens_per_second(const Plan& p) const { return double(tokens * p.accumulation) / step_seconds(p); }
  int64_t device() const { return peak[size_t(Tier::device)] + page_tables; }
  int64_t ram() const { return peak[size_t(Tier::pinned)] + peak[size_t(Tier::host)]; }
  int64_t disk() const { return peak[size_t(Tier::disk)]; }
  void set_bytes(const Ledger&, const DeviceSpec&);  // what the ledger took at most
};
inline bool fits(const Outcome& o, const Budget& b) { return o.device() <= b.device && o.ram() <= b.ram && o.disk() <= b.disk; }
struct Candidate {
  Plan plan;
  Outcome outcome;
};

// Seconds that a ledger's entries take by the spec: each op max(flops / peak, bytes / bandwidth); copies on lanes of their own, begun
// where they were issued and awaited where the computation waits for them.
double predicted_seconds(std::span<const Entry>, const DeviceSpec&);

// What the search may vary, and what the user fixed.
struct Space {
  int layers = 0;
  int64_t batch = 1, accumulation = 1;     // the user's; micro-batches are divisors of batch
  bool can_stream = false;                 // layers may lie in pinned memory
  bool has_disk = false;                   // frozen ones on disk too
  bool can_window = false;                 // a layer may run several micro-batches: its gradients add up in the same order
  int trained_layers = 0;                  // beside frozen ones they stay on the device; where all are trained, one that is streamed is updated at its turn
  bool all_trained() const { return layers > 0 && trained_layers == layers; }
  bool layers_alike = false;               // all have one structure, so that what a share of them takes is that share
  bool packed = false;                     // these are stored packed
  bool wide = false;                       // or in another type than products take
  bool can_host_embedding = false;         // the table is frozen, no head, and the device reads pinned memory
  bool paged_optimizer = false;            // the user's choice of optimizer; a plan may page another's states too
  std::optional<nn::Save> save;            // every tensor of every layer
  std::optional<int> resident_layers;
  std::optional<int64_t> window;           // as far as there are micro-batches for it
  std::optional<SumOrder> order;           // of a run that goes on
  std::vector<int64_t> token_chunks{8192, 2048};  // that may be tried where a micro-batch has more; from large to small
  int64_t tokens_per_row = 0, vocab = 0;
  bool recompute_all = false, keep_all = false;  // gradient_checkpointing: true (every block whole), false
};
using DryRun = std::function<Outcome(const Plan&)>;

// Every plan of the space. The set does not depend on the budget, so more budget is never slower.
std::vector<Plan> candidates(const Space&);
// The fastest candidate that fits, by dry runs. Left out are those that cannot fit, or not be faster, by what was tried. Empty: nothing fits; `least`
// is then the candidate that needs the least device memory.
struct Choice {
  std::optional<Candidate> best;
  Candidate least;
  std::vector<Candidate> front;  // of all that were tried, fitting or not: those than which none is faster in as little device memory, from the fastest on
  bool device_suffices = false, ram_suffices = false;  // for some candidate, were there enough of the others
  int tried = 0;
};
Choice choose(const Budget&, const Space&, const DryRun&);

// The levels of saving, cheapest time per byte first; each level recomputes or offloads what the one before does, and more.
struct Level { const char* name; nn::LayerSave save; bool recomputes_block = false; };
const std::vector<Level>& ladder();
// "24 of 32 layers: keep all; 8 of 32 layers: recompute mlp; spread evenly"
std::string describe_saves(const Plan&);

// The decisions in words.
std::string describe(const Plan&);
// Each level of the ladder for all layers, and what it takes and costs with everything else as it is in `like`.
struct Rung { std::string name; Candidate candidate; };
std::vector<Rung> rungs(const Space&, const Plan& like, const DryRun&);

}  // namespace thimble::plan
