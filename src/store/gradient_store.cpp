// A slot is filled with zeros on the device where a step begins: nothing crosses the link for that.
#include "store/gradient_store.h"

#include "ops/elementwise.h"

namespace thimble::store {
namespace {

FlatLayout resident_ones(const std::vector<const ParamSpec*>& trained, const std::function<bool(int)>& streamed) {
  FlatLayout layout;
  for (const ParamSpec* p : trained)
    if (p->layer < 0 || !streamed(p->layer)) layout.add(*p);
  return layout;
}

}  // namespace

GradientStore::GradientStore(comm::Rank& rank, const std::vector<const ParamSpec*>& trained, const std::function<bool(int layer)>& streamed, Waits waits)
    : rank_(rank), resident_(rank, Use::gradients, "gradients", resident_ones(trained, streamed)) {
  if (!trained.empty()) groups_.resize(size_t(trained.back()->layer + 2));
  for (const ParamSpec* p : trained) of(p->layer).layout.add(*p);
  size_t first = 0;
  int64_t largest = 0, largest_sums = 0;
  for (int layer = -1; layer + 1 < int(groups_.size()); ++layer) {
    if (!has(layer)) continue;
    Group& g = of(layer);
    g.streamed = layer >= 0 && streamed(layer);
    if (!g.streamed) {
      g.now = resident_.range(first, first + g.layout.size() - 1);
      first += g.layout.size();
      continue;
    }
    rank.ledger.at_layer(layer);
    const DType dtype = waits == Waits::whole && g.layout.all_are(DType::bf16) ? DType::bf16 : DType::f32;
    if (waits != Waits::never) g.home = rank.pinned.take(Use::gradients, "gradients of a layer", dtype, {g.layout.count()});
    if (g.rounded()) largest_sums = std::max(largest_sums, g.layout.count());
    largest = std::max(largest, g.rounded() ? g.home.bytes() : g.layout.bytes());
  }
  rank.ledger.at_layer(-1);
  if (largest_sums > 0) sums_ = rank.memory.take(Use::gradients, "gradients of the layer", DType::f32, {largest_sums});
  if (largest > 0) ring_ = std::make_unique<Ring>(rank.stream, rank.memory, "streamed gradients", waits == Waits::never ? 1 : 2, largest);
}

void GradientStore::open(int layer, bool first, int next) {
  if (!streamed(layer)) return;
  Group& g = of(layer);
  const int64_t count = g.layout.count();
  if (first) {
    g.now = {g.rounded() ? sums_.data : ring_->acquire_to_fill(layer, count * size_of(DType::f32)).data, DType::f32, {count}};
    return ops::zero(rank_.stream, g.now);
  }
  g.now = {ring_->acquire(layer, g.home).data, g.home.dtype, {count}};
  if (next >= 0 && streamed(next)) ring_->prefetch(next, of(next).home);
}

void GradientStore::close(int layer, bool keep) {
  if (!streamed(layer)) return;
  Group& g = of(layer);
  check(!keep || g.home, "gradients that are kept have a place to wait");
  if (g.now.data == sums_.data) {
    if (keep) {
      const Tensor slot{ring_->acquire_to_fill(layer, g.home.bytes()).data, g.home.dtype, g.home.shape};
      ops::convert(rank_.stream, slot, g.now);
      ring_->release(layer, g.home);
    }
  } else if (keep) {
    ring_->release(layer, g.home);
  } else {
    ring_->release(layer);
  }
  g.now = {};
}

}  // namespace thimble::store
