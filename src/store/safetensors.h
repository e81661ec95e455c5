// The safetensors format (github.com/huggingface/safetensors): 8 bytes length, a JSON header, tensors back to back. Every number of the
// header is checked against the file before it is used; a file is written piece by piece and appears only when whole.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/tensor.h"

namespace thimble::store {

struct TensorInfo {
  std::string_view name;  // of the file's own block of names
  std::string_view type;  // as the file spells it: "F32", "BF16", "F8_E4M3" ...
  Shape shape;
  int64_t begin = 0, end = 0;  // bytes in the file
  int64_t bytes() const { return end - begin; }
};

class SafetensorsFile {
 public:
  // Throws Error (bad_input) naming the file, and the tensor where it is one tensor's fault.
  explicit SafetensorsFile(const fs::path&);
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const TensorInfo* find(std::string_view name) const;
  // A view of the mapping. Throws Error (bad_input) when it is not there, of a type that we do not read, or not aligned to its elements.
  Tensor tensor(const std::string& name) const;
  // Elements [first, first + to.count()), of `to`'s type or, F32, BF16 and F16, converted to it, into host memory. Not through the mapping: where a
  // file was cut short meanwhile the mapping would raise a signal, and this throws Error (bad_input); nor need elements be aligned.
  void read(const TensorInfo&, int64_t first, Tensor to) const;
  // Bytes [first, first + n) of the tensor as they stand, by the same way.
  void read_bytes(const TensorInfo&, int64_t first, int64_t n, void* to) const;
  // "model.safetensors, tensor 'x'"
  std::string where(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const MappedFile& file() const { return file_; }

 private:
  struct Descriptor {
    explicit Descriptor(const fs::path&);
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;
    const int fd;
  };
  void read_metadata(const Json&);
  void index_names();
  void check_tiling(int64_t begin) const;

  MappedFile file_;
  std::unique_ptr<const Descriptor> descriptor_;
  std::vector<char> names_;  // never grows, since the tensors look into it
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> by_name_;  // places in tensors_
  std::map<std::string, std::string> metadata_;
};

// Writes a file whose tensors are declared first and then filled in the same order, each in as many pieces as one likes. In the file they lie by
// falling size of their elements, so that each is aligned (as the safetensors library writes them).
class SafetensorsWriter {
 public:
  struct Declared {
    std::string name;
    DType dtype;
    Shape shape;
  };
  SafetensorsWriter(const fs::path&, std::vector<Declared>, const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  void write(const Tensor& piece);  // host memory; the next bytes of the tensor that is next, of its type, not beyond its end
  WrittenFile commit();             // checks that everything declared was written

 private:
  void skip_complete();
  AtomicFile file_;
  std::vector<Declared> tensors_;
  std::vector<int64_t> places_;  // in the file
  size_t next_ = 0;      // of tensors_
  int64_t written_ = 0;  // bytes of it
};

}  // namespace thimble::store
