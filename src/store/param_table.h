// The one truth on parameters: name, shape, role, layer, stored format. Loader, optimizer, checkpoint and planner read the same table.
// Names are those of the Hugging Face files, so that what we read and write needs no translation.
#pragma once
#include <string>
#include <vector>

#include "quant/weight.h"

namespace thimble::store {

enum class Role : uint8_t { embedding, norm, linear, bias, head, lora_a, lora_b, lora_magnitude };
constexpr const char* name_of(Role r) {
  constexpr const char* names[] = {"embedding", "norm", "linear", "bias", "head", "lora a", "lora b", "lora magnitude"};
  return names[int(r)];
}
constexpr bool is_adapter(Role r) { return r >= Role::lora_a; }

struct ParamSpec {
  std::string name;
  Shape shape;                 // linear, head: (out, in); embedding: (V, C); norm: (C); bias: (out)
  Role role = Role::linear;
  int layer = -1;              // -1: outside the layers
  quant::FormatId format = quant::FormatId::dense;
  DType dtype = DType::f32;    // of dense values, and what a packed one is made from
  quant::FormatId stored = quant::FormatId::dense;  // in the model's files
  bool trained = false;        // else frozen
  bool adjoins = false;        // lies right behind the one before, so that both can be read as one matrix
  bool about_zero = false;     // a norm that multiplies by 1 + w: a new one is 0, not 1
  // Where the model's files hold it as rows of a tensor that several share: that tensor's name, the first row here, the rows in all.
  std::string shared{};
  int64_t shared_row = 0, shared_rows = 0;

  std::string also{};  // another name under which the files may hold the same numbers: the head that is the embedding

  const std::string& file_name() const { return shared.empty() ? name : shared; }
  // Do the files hold the very codes that are wanted? Rows of a matrix that several share are read as numbers and packed anew.
  bool comes_packed() const { return format != quant::FormatId::dense && format == stored && shared.empty(); }
  Shape file_shape() const { return shared.empty() ? shape : Shape{shared_rows, shape[1]}; }
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

// The tensors of the files: those that share one are one. Neighbours in a table are neighbours there, in the same order.
inline ParamTable as_files_hold(const ParamTable& table) {
  const auto whole = [](const std::vector<ParamSpec>& specs) {
    std::vector<ParamSpec> files;
    for (const auto& p : specs) {
      if (p.shared_row > 0) continue;
      files.push_back(p);
      files.back().name = p.file_name();
      files.back().shape = p.file_shape();
      files.back().shared.clear();
    }
    return files;
  };
  ParamTable files{.outside = whole(table.outside), .layers = {}};
  for (const auto& layer : table.layers) files.layers.push_back(whole(layer));
  return files;
}

}  // namespace thimble::store
