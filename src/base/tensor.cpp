// Text forms of shapes and tensors, and the one way to cut a tensor.
#include "base/tensor.h"

namespace thimble {

std::string to_string(const Shape& s) {
  std::string text = "(";
  for (int i = 0; i < s.rank(); ++i) text += (i ? ", " : "") + std::to_string(s[i]);
  return text + ")";
}

std::string to_string(const Tensor& t) { return std::string(name_of(t.dtype)) + " " + to_string(t.shape); }

Tensor Tensor::rows(int64_t begin, int64_t n) const {
  check(shape.rank() >= 1 && begin >= 0 && n >= 0 && begin + n <= shape[0], "rows lie inside the tensor");
  Shape s;
  switch (shape.rank()) {
    case 1: s = {n}; break;
    case 2: s = {n, shape[1]}; break;
    case 3: s = {n, shape[1], shape[2]}; break;
    default: s = {n, shape[1], shape[2], shape[3]};
  }
  return {static_cast<std::byte*>(data) + begin * shape.row() * size_of(dtype), dtype, s};
}

}  // namespace thimble
