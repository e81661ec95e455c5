// TensorBoard's event files: records of scalars by step (tensorflow/core/lib/io/record_writer.cc, util/event.proto), for `report_to: tensorboard`.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace thimble::train {

class EventFile {
 public:
  struct Scalar { std::string_view tag; double value; };
  // A new file in the folder. `first_step`: of a run that goes on, whose later steps in older files no longer count; 0: it begins.
  // A folder or disk that refuses costs a warning, never the run.
  EventFile(const std::filesystem::path& folder, int64_t first_step);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;
  void write(int64_t step, std::span<const Scalar>);  // one record each, on disk when this returns

 private:
  void append(std::string_view event);
  std::filesystem::path path_;
  int fd_ = -1;
};

uint32_t crc32c(std::string_view bytes);  // Castagnoli's polynomial

}  // namespace thimble::train
