// The batches of tests/golden/train30.safetensors: rows of one step, each a document. Of a model with a smaller vocabulary: its remainders.
#pragma once
#include "data/batches.h"

namespace thimble::train {

inline data::MicroBatch batch_of(const Tensor& ids, const Tensor& targets, int64_t step, int64_t vocab = INT32_MAX) {
  const int64_t rows = ids.shape[1], length = ids.shape[2], n = rows * length;
  data::MicroBatch b;
  for (int64_t i = 0; i < n; ++i) {
    b.ids.push_back(int32_t(ids.get<int32_t>()[step * n + i] % vocab));
    b.targets.push_back(int32_t(std::max(-1, targets.get<int32_t>()[step * n + i]) % vocab));
    b.positions.push_back(int32_t(i % length));
    b.start.push_back(int32_t(i / length * length));
  }
  return b;
}

}  // namespace thimble::train
