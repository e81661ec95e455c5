// Which tensor lies in which shard is decided before the first byte, so that names can say how many shards there are.
#include "store/model_writer.h"

#include "base/json.h"

namespace thimble::store {
namespace {

int64_t bytes_of(const SafetensorsWriter::Declared& t) { return t.shape.count() * size_of(t.dtype); }

std::string shard_name(size_t shard, size_t shards) {
  return shards == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
}

}  // namespace

ModelWriter::ModelWriter(const fs::path& folder, std::vector<SafetensorsWriter::Declared> tensors, int64_t shard_bytes) : folder_(folder), tensors_(std::move(tensors)) {
  int64_t in_shard = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const int64_t bytes = bytes_of(tensors_[i]);
    if (in_shard > 0 && in_shard + bytes > shard_bytes) ends_.push_back(i), in_shard = 0;
    in_shard += bytes, total_ += bytes;
  }
  ends_.push_back(tensors_.size());
  fs::create_directories(folder);
  if (const int64_t free = free_disk_bytes(folder); total_ > free)
    throw Error(Fault::bad_input, {.what = "a model does not fit the disk", .where = folder.string(), .expected = human_bytes(total_), .found = human_bytes(free) + " free",
                                   .fix = "free some disk space, or name a folder on another disk"});
  next_shard();
}

void ModelWriter::next_shard() {
  const auto begin = tensors_.begin() + int64_t(shard_ ? ends_[shard_ - 1] : 0), end = tensors_.begin() + int64_t(ends_[shard_]);
  writer_ = std::make_unique<SafetensorsWriter>(folder_ / shard_name(shard_, ends_.size()), std::vector(begin, end));
}

void ModelWriter::write(const Tensor& piece) {
  turn_to_next();
  writer_->write(piece);
  written_ += piece.bytes();
}

// Tensors of no bytes are complete as they are declared.
void ModelWriter::turn_to_next() {
  while (next_ < tensors_.size() && written_ == bytes_of(tensors_[next_])) ++next_, written_ = 0;
  while (shard_ + 1 < ends_.size() && next_ >= ends_[shard_]) {
    writer_->commit();
    ++shard_;
    next_shard();
  }
}

int ModelWriter::commit() {
  turn_to_next();
  writer_->commit();
  check(shard_ + 1 == ends_.size(), "all shards were written");
  if (ends_.size() == 1) return 1;
  Json map = Json::object();
  for (size_t i = 0, shard = 0; i < tensors_.size(); ++i) {
    while (i >= ends_[shard]) ++shard;
    map.push_back({tensors_[i].name, shard_name(shard, ends_.size())});
  }
  write_atomically(folder_ / "model.safetensors.index.json", Json{{"metadata", {{"total_size", total_}}}, {"weight_map", map}}.dump(1) + "\n");
  return int(ends_.size());
}

}  // namespace thimble::store
