// A view: where numbers lie, of which type, in which shape. Contiguous, row-major, owning nothing, knowing no device.
// On a phantom device `data` is address space that nobody may touch; everything else is as on the real one.
#pragma once
#include <cstddef>

#include "base/dtype.h"
#include "base/shape.h"

namespace thimble {

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  explicit operator bool() const { return data != nullptr; }
  int64_t count() const { return shape.count(); }
  int64_t bytes() const { return count() * size_of(dtype); }

  template <class T>
  T* get(std::source_location at = std::source_location::current()) const {
    check(dtype == dtype_of<T>, "a tensor is read as the type it has", at);
    return static_cast<T*>(data);
  }

  Tensor view(Shape s) const {
    check(s.count() == count(), "a view keeps the number of elements");
    return {data, dtype, s};
  }
  // Rows [begin, begin + n) of the outermost dimension.
  Tensor rows(int64_t begin, int64_t n) const;
};

std::string to_string(const Tensor&);  // "f32 (2, 3)"

// Calls f with a value of the C++ type of a floating dtype: the one dtype dispatch of an op.
template <class F>
decltype(auto) visit_float(DType t, F&& f) {
  switch (t) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(bf16{});
    case DType::f16: return f(f16{});
    default: throw Error("a floating-point tensor was expected, found " + std::string(name_of(t)));
  }
}

}  // namespace thimble
