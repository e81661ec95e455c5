// Many tensors in one allocation: adapters, and gradients. One norm, one zeroing, one update run over the whole of it.
#pragma once
#include <algorithm>

#include "comm/rank.h"
#include "store/param_table.h"

namespace thimble::store {

// Where each of them lies in it. Their specs outlive it.
class FlatLayout {
 public:
  FlatLayout() = default;
  explicit FlatLayout(const std::vector<ParamSpec>& specs) {
    for (const auto& p : specs) add(p);
  }
  void add(const ParamSpec& p) {
    if (!p.adjoins) count_ = padded(count_);
    places_.push_back({&p, count_});
    count_ += p.shape.count();
  }
  size_t size() const { return places_.size(); }
  int64_t count() const { return count_; }  // of numbers, the padding between them included
  int64_t bytes() const { return padded(count_) * int64_t(sizeof(float)); }  // in f32
  Tensor at(void* base, size_t i, DType dtype = DType::f32) const {
    return {static_cast<std::byte*>(base) + places_[i].first * size_of(dtype), dtype, places_[i].spec->shape};
  }
  // Is every one of them kept in this type?
  bool all_are(DType dtype) const {
    return std::all_of(places_.begin(), places_.end(), [&](const Place& p) { return p.spec->dtype == dtype; });
  }

 private:
  static int64_t padded(int64_t floats) { return aligned(floats * int64_t(sizeof(float))) / int64_t(sizeof(float)); }
  struct Place { const ParamSpec* spec; int64_t first; };
  std::vector<Place> places_;
  int64_t count_ = 0;
};

class FlatStore {
 public:
  // `name` must be a literal.
  FlatStore(comm::Rank& rank, Use use, const char* name, FlatLayout layout)
      : layout_(std::move(layout)), all_(rank.memory.take(use, name, DType::f32, {layout_.bytes() / int64_t(sizeof(float))})) {}
  const Tensor& all() const { return all_; }
  Tensor operator[](size_t i) const { return layout_.at(all_.data, i); }
  // Tensors first to last as one, the padding between them included.
  Tensor range(size_t first, size_t last) const {
    const Tensor a = (*this)[first], b = (*this)[last];
    return {a.data, DType::f32, {b.get<float>() - a.get<float>() + b.count()}};
  }
  size_t size() const { return layout_.size(); }

 private:
  FlatLayout layout_;
  Tensor all_;
};

}  // namespace thimble::store
