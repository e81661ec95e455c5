// What forward leaves in pinned memory until backward: a home for each layer of each micro-batch of a window, and the ring on the way.
// Backward walks layers in reverse and micro-batches in order, so this knows what comes next and fetches ahead.
#pragma once
#include <memory>
#include <vector>

#include "comm/rank.h"
#include "device/ring.h"

namespace thimble::nn {

class Offload {
 public:
  // bytes: by layer, of one micro-batch at most; 0: nothing leaves. held: items that forward has open at once. name: a literal.
  Offload(comm::Rank&, const char* name, const std::vector<int64_t>& bytes, int window, int held);

  bool has(int layer) const { return bytes_[size_t(layer)] > 0; }
  // Forward: a place to write, then its way home.
  Tensor open(int layer, int micro, int64_t bytes);
  void send(int layer, int micro);
  // Backward: the same bytes again; those wanted next set out.
  Tensor bring(int layer, int micro);
  void close(int layer, int micro) { ring_->release(item(layer, micro)); }
  void forget();  // the window is done

 private:
  int item(int layer, int micro) const { return layer * window_ + micro; }
  void fetch_after(int layer, int micro);

  std::vector<int64_t> bytes_;
  int window_;
  std::vector<Tensor> homes_, sent_;  // by item: where it lives; what of it was written
  std::unique_ptr<Ring> ring_;
};

}  // namespace thimble::nn
