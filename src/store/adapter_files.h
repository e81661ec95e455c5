// Adapters in PEFT's layout (src/peft/utils/save_and_load.py): adapter_config.json and adapter_model.safetensors.
#pragma once
#include <functional>

#include "base/json.h"
#include "store/param_table.h"
#include "store/safetensors.h"

namespace thimble::store {

struct AdapterConfig {
  int64_t rank = 8;
  double alpha = 16;
  bool rslora = false;
  std::vector<std::string> targets;  // leaf names: "q_proj" ...
  std::string base_model;
};

// What PEFT's LoraConfig has and we do not is refused by name. Throws Error (bad_input).
AdapterConfig read_adapter_config(const fs::path& folder);

// Opens the tensors and checks them against the adapters of a model (store/param_table.h: names of the base's weights, roles lora_a and
// lora_b).
class AdapterFile {
 public:
  AdapterFile(const fs::path& folder, const std::vector<ParamSpec>& adapters);
  void read(const ParamSpec&, Tensor to) const;  // f32, host

 private:
  const TensorInfo& info(const ParamSpec&) const;
  SafetensorsFile file_;
};

// Writes both files. `fill` is called once with a function that takes each tensor's elements, piece by piece, in the order of `adapters`.
std::vector<WrittenFile> write_adapter(const fs::path& folder, const AdapterConfig&, const std::vector<ParamSpec>& adapters,
                                       const std::function<void(const std::function<void(const ParamSpec&, Tensor piece)>& put)>& fill);

// "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
std::string peft_name(const ParamSpec& adapter);
// What a trained parameter is called in the files that we write: PEFT's name of an adapter, its own otherwise.
std::string name_in_file(const ParamSpec&);

}  // namespace thimble::store
