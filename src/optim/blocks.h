// Walks the blocks of many tensors in one parallel loop. Blocks never cross tensors, and what happens in a block depends on the block
// alone, so results do not depend on the thread count. Internal to optim.
#pragma once
#include <algorithm>

#include "base/threads.h"
#include "optim/optimizer.h"

namespace thimble::optim {

// f(update, first element, elements) for each block of `size` elements; the last block of a tensor may be shorter.
template <class F>
void for_blocks(std::span<const Update> updates, int64_t size, int64_t grain, F&& f) {
  const auto blocks_of = [&](const Update& u) { return (u.param.count() + size - 1) / size; };
  int64_t all = 0;
  for (const Update& u : updates) all += blocks_of(u);
  parallel_for(all, grain, [&](int64_t begin, int64_t end) {
    int64_t before = 0;  // blocks of the tensors passed so far
    for (const Update& u : updates) {
      if (before >= end) break;
      const int64_t blocks = blocks_of(u);
      for (int64_t b = std::max<int64_t>(0, begin - before); b < std::min(blocks, end - before); ++b)
        f(u, b * size, std::min(size, u.param.count() - b * size));
      before += blocks;
    }
  });
}

}  // namespace thimble::optim
