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

GradientStore::GradientStore(comm::Rank& rank, const std::vector<const ParamSpec*>& trained, const std::function<bool(int)>& streamed, bool homes)
    : rank_(rank), resident_(rank, Use::gradients, "gradients", resident_ones(trained, streamed)) {
  if (!trained.empty()) groups_.resize(size_t(trained.back()->layer + 2));
  for (const ParamSpec* p : trained) of(p->layer).layout.add(*p);
  size_t first = 0;
  int64_t largest = 0;
  for (int layer = -1; layer + 1 < int(groups_.size()); ++layer) {
    if (!has(layer)) continue;
    Group& g = of(layer);
    g.streamed = layer >= 0 && streamed(layer);
    if (g.streamed) {
      rank.ledger.at_layer(layer);
      largest = std::max(largest, g.layout.bytes());
      if (homes) g.home = rank.pinned.take(Use::gradients, "gradients of a layer", DType::f32, {g.layout.count()});
    } else {
      g.now = resident_.range(first, first + g.layout.size() - 1);
      first += g.layout.size();
    }
  }
  rank.ledger.at_layer(-1);
  if (largest > 0) ring_ = std::make_unique<Ring>(rank.stream, rank.memory, "streamed gradients", homes ? 2 : 1, largest);
}

void GradientStore::open(int layer, bool first, int next) {
  if (!streamed(layer)) return;
  Group& g = of(layer);
  const Tensor slot = first ? ring_->acquire_to_fill(layer, g.layout.count() * int64_t(sizeof(float))) : ring_->acquire(layer, g.home);
  g.now = {slot.data, DType::f32, {g.layout.count()}};
  if (first) ops::zero(rank_.stream, g.now);
  else if (next >= 0 && streamed(next)) ring_->prefetch(next, of(next).home);
}

void GradientStore::close(int layer, bool keep) {
  if (!streamed(layer)) return;
  Group& g = of(layer);
  check(!keep || g.home, "gradients that are kept have a place to wait");
  if (keep) ring_->release(layer, g.home);
  else ring_->release(layer);
  g.now = {};
}

}  // namespace thimble::store
