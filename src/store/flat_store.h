// Many f32 tensors in one allocation: adapters, and gradients. One norm, one zeroing, one update run over the whole of it.
#pragma once
#include "comm/rank.h"
#include "store/param_table.h"

namespace thimble::store {

// Where each of them lies in it.
class FlatLayout {
 public:
  explicit FlatLayout(const std::vector<ParamSpec>& specs) : specs_(specs) {
    for (const auto& p : specs) {
      if (!p.adjoins) count_ = padded(count_);
      places_.push_back(count_);
      count_ += p.shape.count();
    }
  }
  int64_t count() const { return count_; }  // of floats, the padding between them included
  int64_t bytes() const { return padded(count_) * int64_t(sizeof(float)); }
  Tensor at(void* base, size_t i) const { return {static_cast<float*>(base) + places_[i], DType::f32, specs_[i].shape}; }
  const std::vector<ParamSpec>& specs() const { return specs_; }

 private:
  static int64_t padded(int64_t floats) { return aligned(floats * int64_t(sizeof(float))) / int64_t(sizeof(float)); }
  std::vector<ParamSpec> specs_;
  std::vector<int64_t> places_;
  int64_t count_ = 0;
};

class FlatStore {
 public:
  // `name` must be a literal.
  FlatStore(comm::Rank& rank, Use use, const char* name, const std::vector<ParamSpec>& specs)
      : layout_(specs), all_(rank.memory.take(use, name, DType::f32, {layout_.bytes() / int64_t(sizeof(float))})) {}
  const Tensor& all() const { return all_; }
  Tensor operator[](size_t i) const { return layout_.at(all_.data, i); }
  // Tensors first to last as one, the padding between them included.
  Tensor range(size_t first, size_t last) const {
    const Tensor a = (*this)[first], b = (*this)[last];
    return {a.data, DType::f32, {b.get<float>() - a.get<float>() + b.count()}};
  }
  const std::vector<ParamSpec>& specs() const { return layout_.specs(); }
  size_t size() const { return specs().size(); }

 private:
  FlatLayout layout_;
  Tensor all_;
};

}  // namespace thimble::store
