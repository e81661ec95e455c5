// Packed matrices in files of others: bitsandbytes' 4-bit (QuantState.as_dict(packed=True)) and 8-bit (Linear8bitLt) layouts, and codes of 8-bit
// floats with a scale a block of 128 x 128 (DeepSeek, Qwen: F8_E4M3 and weight_scale_inv). Read and, bitsandbytes', written.
#pragma once
#include <functional>

#include "quant/weight.h"
#include "store/safetensors.h"

namespace thimble::store {

constexpr int64_t fp8_block = 128;

// Where a name of a folder lies; nulls where it is not.
struct Located {
  const SafetensorsFile* file = nullptr;
  const TensorInfo* info = nullptr;
  explicit operator bool() const { return info != nullptr; }
  std::string where() const { return file->where(info->name); }
};
using Locate = std::function<Located(const std::string& name)>;

// A matrix (N, K) whose files hold codes. Opening checks all that belongs to it: types, sizes, the state's text, the maps.
class PackedMatrix {
 public:
  // `name`: of the tensor of codes. Throws Error (bad_input) naming file and tensor.
  PackedMatrix(const Locate&, const std::string& name);
  const Shape& shape() const { return shape_; }
  quant::FormatId format() const { return format_; }  // dense for F8_E4M3, whose numbers are read, never kept as codes
  // Elements [first, first + to.count()) of a part, as quant::parts_of numbers them, into host memory.
  void read_part(int part, int64_t first, Tensor to) const;
  // Rows [row, row + to.shape[0]) of the numbers that the codes stand for, rounded to `to`'s type.
  void read_rows(int64_t row, Tensor to) const;

 private:
  void open_4bit(const Locate&, const std::string& name);
  void open_8bit(const Locate&, const std::string& name);
  void open_fp8(const Locate&, const std::string& name);
  const quant::Weight& whole() const;  // all parts, in host memory, read when first asked for

  Shape shape_;
  quant::FormatId format_ = quant::FormatId::dense;
  std::array<Located, 3> parts_;       // the parts that are tensors of the files, in their order
  float offset_ = 0;                   // nf4_dq's, from the state
  mutable std::vector<std::vector<std::byte>> held_;
  mutable quant::Weight whole_;
};

// Is the tensor one of codes? (U8 and a float type for 4 bits, I8, F8_E4M3, with what must stand beside it)
bool is_packed(const Locate&, const std::string& name);

// The tensors of a packed matrix in bitsandbytes' layout, `name` first; `dtype`: of the numbers it was made from, as torch spells it.
// declare(): before it is packed; fill(): afterwards, in the same order.
std::vector<SafetensorsWriter::Declared> declare_packed(const std::string& name, quant::FormatId, const Shape& matrix);
void fill_packed(const quant::Weight&, const std::string& dtype, const std::function<void(const Tensor&)>& put);

}  // namespace thimble::store
