// The one truth on parameters: name, shape, role, layer, stored format. Loader, optimizer, checkpoint and planner read the same table.
// Names are those of the Hugging Face files, so that what we read and write needs no translation.
#pragma once
#include <string>
#include <vector>

#include "quant/weight.h"

namespace thimble::store {

enum class Role : uint8_t { embedding, norm, linear, head, lora_a, lora_b };
constexpr const char* name_of(Role r) {
  constexpr const char* names[] = {"embedding", "norm", "linear", "head", "lora a", "lora b"};
  return names[int(r)];
}

struct ParamSpec {
  std::string name;
  Shape shape;                 // linear, head: (out, in); embedding: (V, C); norm: (C)
  Role role = Role::linear;
  int layer = -1;              // -1: outside the layers
  quant::FormatId format = quant::FormatId::dense;
  DType dtype = DType::f32;    // of dense values, and what a packed one is made from
  bool adjoins = false;        // lies right behind the one before, so that both can be read as one matrix
};

struct ParamTable {
  std::vector<ParamSpec> outside;               // embedding, final norm, head
  std::vector<std::vector<ParamSpec>> layers;   // each layer's parameters, in the order in which its slab holds them

  int64_t parameters() const {
    int64_t n = 0;
    for_each([&](const ParamSpec& p) { n += p.shape.count(); });
    return n;
  }
  template <class F>
  void for_each(F&& f) const {
    for (const auto& p : outside) f(p);
    for (const auto& layer : layers)
      for (const auto& p : layer) f(p);
  }
};

}  // namespace thimble::store
