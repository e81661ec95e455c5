// The weights of a model folder, written in one file, or in shards of a limited size with an index, as transformers names them.
#pragma once
#include <memory>

#include "store/safetensors.h"

namespace thimble::store {

class ModelWriter {
 public:
  // Tensors go into a shard while it stays within `shard_bytes`; a larger tensor has a shard of its own. Throws Error where the disk has no room.
  ModelWriter(const fs::path& folder, std::vector<SafetensorsWriter::Declared>, int64_t shard_bytes);
  void write(const Tensor& piece);  // as SafetensorsWriter::write, tensor after tensor as they were declared
  // The last shard and the index; returns how many shards there are.
  int commit();

 private:
  void next_shard();    // opens shard_
  void turn_to_next();  // tensor, and shard where that one is complete
  fs::path folder_;
  std::vector<SafetensorsWriter::Declared> tensors_;
  std::vector<size_t> ends_;  // of shards, in tensors_
  size_t next_ = 0;           // tensor
  int64_t written_ = 0, total_ = 0;
  size_t shard_ = 0;          // that is being written
  std::unique_ptr<SafetensorsWriter> writer_;
};

}  // namespace thimble::store
