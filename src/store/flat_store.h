// Many f32 tensors in one allocation: adapters, and gradients. One norm, one zeroing, one update run over the whole of it.
#pragma once
#include "comm/rank.h"
#include "store/param_table.h"

namespace thimble::store {

class FlatStore {
 public:
  // `name` must be a literal.
  FlatStore(comm::Rank& rank, Use use, const char* name, const std::vector<ParamSpec>& specs) : specs_(specs) {
    std::vector<int64_t> places;
    int64_t count = 0;
    for (const auto& p : specs) {
      if (!p.adjoins) count = padded(count);
      places.push_back(count);
      count += p.shape.count();
    }
    all_ = rank.memory.take(use, name, DType::f32, {padded(count)});
    for (size_t i = 0; i < specs.size(); ++i) tensors_.push_back(Tensor{static_cast<float*>(all_.data) + places[i], DType::f32, specs[i].shape});
  }
  const Tensor& all() const { return all_; }
  const Tensor& operator[](size_t i) const { return tensors_[i]; }
  // Tensors first to last as one, the padding between them included.
  Tensor range(size_t first, size_t last) const {
    return {tensors_[first].data, DType::f32, {tensors_[last].get<float>() - tensors_[first].get<float>() + tensors_[last].count()}};
  }
  const std::vector<ParamSpec>& specs() const { return specs_; }
  size_t size() const { return specs_.size(); }

 private:
  static int64_t padded(int64_t floats) { return aligned(floats * int64_t(sizeof(float))) / int64_t(sizeof(float)); }
  std::vector<ParamSpec> specs_;
  Tensor all_;
  std::vector<Tensor> tensors_;
};

}  // namespace thimble::store
