// Many f32 tensors in one allocation: adapters, and gradients. One norm, one zeroing, one update run over the whole of it.
#pragma once
#include "comm/rank.h"
#include "store/param_table.h"

namespace thimble::store {

class FlatStore {
 public:
  // `name` must be a literal.
  FlatStore(comm::Rank& rank, Use use, const char* name, const std::vector<ParamSpec>& specs) : specs_(specs) {
    int64_t count = 0;
    for (const auto& p : specs) count += padded(p);
    all_ = rank.memory.take(use, name, DType::f32, {count});
    int64_t at = 0;
    for (const auto& p : specs) {
      tensors_.push_back(Tensor{static_cast<float*>(all_.data) + at, DType::f32, p.shape});
      at += padded(p);
    }
  }
  const Tensor& all() const { return all_; }
  const Tensor& operator[](size_t i) const { return tensors_[i]; }
  // Tensors first to last as one, the padding between them included.
  Tensor range(size_t first, size_t last) const {
    const auto* begin = static_cast<float*>(tensors_[first].data);
    return {tensors_[first].data, DType::f32, {static_cast<float*>(tensors_[last].data) - begin + padded(specs_[last])}};
  }
  const std::vector<ParamSpec>& specs() const { return specs_; }
  size_t size() const { return specs_.size(); }

 private:
  static int64_t padded(const ParamSpec& p) { return aligned(p.shape.count() * int64_t(sizeof(float))) / int64_t(sizeof(float)); }
  std::vector<ParamSpec> specs_;
  Tensor all_;
  std::vector<Tensor> tensors_;
};

}  // namespace thimble::store
