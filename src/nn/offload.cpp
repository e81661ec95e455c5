// A slot is held by what is computed with; the others are on their way, home or back.
#include "nn/offload.h"

#include <algorithm>

namespace thimble::nn {
namespace {

constexpr int ahead = 2;  // items that backward has under way beside the one in use: a streamed layer's weights may travel before them

}  // namespace

Offload::Offload(comm::Rank& rank, const char* name, const std::vector<int64_t>& bytes, int window, int held) : bytes_(bytes), window_(window) {
  homes_.resize(bytes.size() * size_t(window));
  sent_.resize(homes_.size());
  int64_t largest = 0;
  for (int l = 0; l < int(bytes.size()); ++l) {
    if (!has(l)) continue;
    rank.ledger.at_layer(l);
    const Tensor all = rank.pinned.take(Use::activations, name, DType::u8, {window, aligned(bytes[size_t(l)])});
    for (int m = 0; m < window; ++m) homes_[size_t(item(l, m))] = all.rows(m, 1).view({all.shape[1]});
    largest = std::max(largest, all.shape[1]);
  }
  rank.ledger.at_layer(-1);
  if (largest) ring_ = std::make_unique<Ring>(rank.stream, rank.memory, name, std::max(held, ahead) + 1, largest);
}

Tensor Offload::open(int layer, int micro, int64_t bytes) {
  const int i = item(layer, micro);
  check(bytes <= homes_[size_t(i)].bytes(), "what is offloaded fits its home");
  sent_[size_t(i)] = Tensor{homes_[size_t(i)].data, DType::u8, {bytes}};
  return ring_->acquire_to_fill(i, bytes);
}

void Offload::send(int layer, int micro) { ring_->release(item(layer, micro), sent_[size_t(item(layer, micro))]); }

Tensor Offload::bring(int layer, int micro) {
  const Tensor t = ring_->acquire(item(layer, micro), sent_[size_t(item(layer, micro))]);
  fetch_after(layer, micro);
  return t;
}

void Offload::fetch_after(int layer, int micro) {
  int found = 0;
  for (int l = layer, m = micro + 1; l >= 0 && found < ahead; --l, m = 0)
    for (; m < window_ && found < ahead; ++m)
      if (const Tensor& home = sent_[size_t(item(l, m))]) ring_->prefetch(item(l, m), home), ++found;
}

void Offload::forget() {
  if (ring_) ring_->forget();
  std::fill(sent_.begin(), sent_.end(), Tensor{});
}

}  // namespace thimble::nn
