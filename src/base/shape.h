// Sizes of a tensor, outermost first, at most four; the product is checked for overflow where a shape is made.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/error.h"

namespace thimble {

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) {
    check(sizes.size() <= max_rank, "a shape has at most four dimensions");
    for (const int64_t n : sizes) {
      check(n >= 0 && !__builtin_mul_overflow(count_, n, &count_), "a shape's product fits 63 bits");
      sizes_[size_t(rank_++)] = n;
    }
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return sizes_[size_t(i)]; }
  int64_t count() const { return count_; }  // number of elements; 1 for rank 0
  int64_t rows() const { return rank_ ? sizes_[0] : 1; }
  int64_t row() const { return rows() ? count_ / rows() : 0; }  // elements of one row: all but the outermost dimension
  bool operator==(const Shape&) const = default;

 private:
  static constexpr size_t max_rank = 4;
  std::array<int64_t, max_rank> sizes_{};
  int rank_ = 0;
  int64_t count_ = 1;
};

std::string to_string(const Shape&);  // "(2, 3)"

}  // namespace thimble
