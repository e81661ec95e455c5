// The safetensors format (github.com/huggingface/safetensors): 8 bytes length, a JSON header, tensors back to back. Read through a mapping,
// with every number of the header checked against the file before it is used; written piece by piece, appearing only when whole.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"

namespace thimble::store {

struct TensorInfo {
  std::string name;
  std::string type;     // as the file spells it: "F32", "BF16", "F8_E4M3" ...
  Shape shape;
  int64_t begin = 0, end = 0;  // bytes in the file
};

class SafetensorsFile {
 public:
  // Throws Error (bad_input) naming the file, and the tensor where it is one tensor's fault.
  explicit SafetensorsFile(const fs::path&);
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const TensorInfo* find(const std::string& name) const;
  // A view of the mapping. Throws Error (bad_input) when it is not there or of a type that we do not read.
  Tensor tensor(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

// Writes a file whose tensors are declared first and then filled in the same order, each in as many pieces as one likes.
class SafetensorsWriter {
 public:
  struct Declared { std::string name; DType dtype; Shape shape; };
  SafetensorsWriter(const fs::path&, std::vector<Declared>, const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  void write(const Tensor& piece);  // host memory; bytes follow those written before
  void commit();                    // checks that everything declared was written

 private:
  AtomicFile file_;
  int64_t expected_ = 0, written_ = 0;
};

}  // namespace thimble::store
